//! Addresses of upstreams. They are the operator's and trusted, save that nothing may point at a cloud's metadata service.

use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

use super::provider_file::BaseUrlForm;

/// AWS's metadata service over IPv6; its IPv4 twin is link-local.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
const OLLAMA_PORT: u16 = 11434;

/// An address as an environment variable holds it, with the path that it is usually written without.
pub(super) fn from_environment(text: &str, form: BaseUrlForm, path: Option<&str>) -> String {
    let url = match form {
        BaseUrlForm::Url => text.trim().to_owned(),
        BaseUrlForm::OllamaHost => ollama_host(text.trim()),
    };
    let url = url.trim_end_matches('/');
    match path.filter(|path| !url.ends_with(path)) {
        Some(path) => format!("{url}{path}"),
        None => url.to_owned(),
    }
}

pub(super) fn check(url: &str, may_have_query: bool) -> Result<(), &'static str> {
    let parsed: Uri = url.parse().map_err(|_| "is not a URL")?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err("must begin with http:// or https://");
    }
    let host = parsed.host().filter(|host| !host.is_empty()).ok_or("has no host")?;
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("must not hold a user or a password: credentials have their own setting");
    }
    if url.contains('#') || (parsed.query().is_some() && !may_have_query) {
        return Err("must not have a query or a fragment");
    }
    if is_metadata_service(host) {
        return Err("must not be a link-local address: metadata services of clouds are there");
    }
    Ok(())
}

fn is_metadata_service(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_unicast_link_local() || address == METADATA_V6,
        Err(_) => host.trim_end_matches('.').eq_ignore_ascii_case("metadata.google.internal"),
    }
}

/// As Ollama's clients read `OLLAMA_HOST`, which is also what its server listens on: an unspecified address means this
/// machine. <https://github.com/ollama/ollama/blob/main/envconfig/config.go>
fn ollama_host(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, format!(":{port}")),
        _ if scheme.is_empty() => (authority, format!(":{OLLAMA_PORT}")),
        _ => (authority, String::new()),
    };
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    let scheme = if scheme.is_empty() { "http" } else { scheme };
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{scheme}://{host}{port}{slash}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_ollama_host_is_an_address() {
        for (text, url) in [
            ("gpu-box:8000", "http://gpu-box:8000/v1"),
            ("gpu-box", "http://gpu-box:11434/v1"),
            (":8000", "http://127.0.0.1:8000/v1"),
            ("0.0.0.0", "http://127.0.0.1:11434/v1"),
            ("[::1]:8000", "http://[::1]:8000/v1"),
            ("https://ollama.example.com/", "https://ollama.example.com/v1"),
            ("http://gpu-box:11434/v1/", "http://gpu-box:11434/v1"),
        ] {
            assert_eq!(from_environment(text, BaseUrlForm::OllamaHost, Some("/v1")), url);
        }
    }

    #[test]
    fn a_base_url_is_the_operators_unless_it_points_at_metadata() {
        for url in ["http://127.0.0.1:11434/v1", "https://10.0.0.7", "http://[::1]:8000", "http://vllm.models.svc/v1"] {
            assert_eq!(check(url, false), Ok(()), "{url}");
        }
        for url in [
            "ftp://h/",
            "https://",
            "not a url",
            "https://user:canary@h/v1",
            "https://h/v1?key=1",
            "https://h/v1#x",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://[::ffff:169.254.169.254]/",
            "http://metadata.google.internal/",
        ] {
            assert!(check(url, false).is_err(), "{url}");
        }
        assert_eq!(check("https://h/chat?x=1", true), Ok(()));
    }
}
