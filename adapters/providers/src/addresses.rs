//! Which addresses may be connected to, decided on the resolved address: a name can say anything.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressPolicy {
    /// For base URLs, which the operator wrote: a local Ollama is fine, the cloud's metadata service never is.
    Configured,
    /// For URLs that a provider wrote: the public internet only.
    Public,
}

impl AddressPolicy {
    pub(crate) fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Configured => !is_metadata(address),
            Self::Public => is_public(address),
        }
    }

    /// Checks a host that is written as an address: connectors don't ask the resolver for those.
    pub(crate) fn allows_literal(self, host: &str) -> bool {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse().map_or(true, |address| self.allows(address))
    }
}

/// The system's resolver, with the addresses left out that the policy refuses.
#[derive(Clone)]
pub(crate) struct PolicyResolver {
    inner: GaiResolver,
    policy: AddressPolicy,
}

type Resolved<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl PolicyResolver {
    pub(crate) fn new(policy: AddressPolicy) -> Self {
        Self { inner: GaiResolver::new(), policy }
    }

    fn resolve_allowed(&self, name: Name) -> Resolved<std::vec::IntoIter<SocketAddr>> {
        let policy = self.policy;
        let lookup = self.inner.clone().call(name);
        Box::pin(async move {
            let allowed: Vec<_> = lookup.await?.filter(|address| policy.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "no address of this host may be connected to",
                ));
            }
            Ok(allowed.into_iter())
        })
    }
}

impl Service<Name> for PolicyResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Resolved<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        self.resolve_allowed(name)
    }
}

impl reqwest::dns::Resolve for PolicyResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.resolve_allowed(name.as_str().parse()?).await?;
            Ok(Box::new(addresses) as reqwest::dns::Addrs)
        })
    }
}

/// Link-local addresses, behind which clouds keep their metadata services, and AWS's own IPv6 one.
fn is_metadata(address: IpAddr) -> bool {
    const AWS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => {
            v6 == AWS || v6.is_unicast_link_local() || embedded_ipv4(v6).is_some_and(|v4| v4.is_link_local())
        }
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_ipv4(v4),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            let is_special = v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || first & 0xffc0 == 0xfec0 // site-local, deprecated but still routed by some
                || first == 0x2002 // 6to4
                || (first == 0x2001 && (second == 0 || second == 0xdb8)) // Teredo, documentation
                || first == 0x100; // discard-only
            // Translated and mapped forms are refused even for public IPv4 addresses: no host needs them.
            !is_special && embedded_ipv4(v6).is_none()
        }
    }
}

/// The special-purpose blocks of <https://www.iana.org/assignments/iana-ipv4-special-registry>.
fn is_public_ipv4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = a == 0
        || a >= 224 // multicast, reserved, broadcast
        || (a == 100 && b & 0xc0 == 64) // carrier-grade NAT
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b & 0xfe == 18 || (b == 51 && c == 100)))
        || (a == 203 && b == 0 && c == 113);
    !(is_special || address.is_loopback() || address.is_private() || address.is_link_local())
}

/// The IPv4 address in a mapped (`::ffff:0:0/96`), compatible (`::/96`) or translated (`64:ff9b::/96`) one.
fn embedded_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, ..] = address.segments();
    let is_embedding = matches!((a, b, c, d, e, f), (0, 0, 0, 0, 0, 0 | 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0));
    let [.., w, x, y, z] = address.octets();
    is_embedding.then(|| Ipv4Addr::new(w, x, y, z))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_addresses_are_refused_in_every_form() {
        for host in [
            "169.254.169.254",
            "169.254.0.1",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
        ] {
            assert!(!AddressPolicy::Configured.allows_literal(host), "{host}");
            assert!(!AddressPolicy::Public.allows_literal(host), "{host}");
        }
    }

    #[test]
    fn what_an_operator_may_configure_is_not_all_public() {
        for host in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "[::1]", "[fd12::1]"] {
            assert!(AddressPolicy::Configured.allows_literal(host), "{host}");
            assert!(!AddressPolicy::Public.allows_literal(host), "{host}");
        }
        for host in [
            "0.0.0.0",
            "192.0.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[ff02::1]",
            "[2002::1]",
            "[::ffff:8.8.8.8]",
            "[2001:db8::1]",
        ] {
            assert!(!AddressPolicy::Public.allows_literal(host), "{host}");
        }
        for host in ["8.8.8.8", "1.1.1.1", "[2606:4700::1111]", "example.com"] {
            assert!(AddressPolicy::Public.allows_literal(host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_refused_address_is_refused() {
        let loopback = || "localhost".parse::<Name>().unwrap();
        assert!(PolicyResolver::new(AddressPolicy::Configured).call(loopback()).await.is_ok());
        let error = PolicyResolver::new(AddressPolicy::Public).call(loopback()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        // getaddrinfo reads this as 169.254.169.254, though it's not an address to the URL parser.
        let hexadecimal = "0xa9fea9fe".parse::<Name>().unwrap();
        assert!(PolicyResolver::new(AddressPolicy::Configured).call(hexadecimal).await.is_err());
    }
}
