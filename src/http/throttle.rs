//! Slows down whoever guesses the system secret.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

const MOST_FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Peers remembered at once. When there are more, the oldest windows go first.
const MOST_PEERS: usize = 10_000;

/// Failures of each peer in a window that starts with the first one.
#[derive(Default)]
pub(super) struct Throttle {
    peers: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    since: Duration,
}

impl Throttle {
    /// # Errors
    /// How long the peer has to wait.
    pub(super) fn check(&self, peer: IpAddr, now: Duration) -> Result<(), Duration> {
        let peer = network(peer);
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match peers.get(&peer) {
            Some(failures) if failures.count >= MOST_FAILURES && now < failures.since + WINDOW => {
                Err((failures.since + WINDOW).saturating_sub(now))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn failed(&self, peer: IpAddr, now: Duration) {
        let peer = network(peer);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MOST_PEERS {
            peers.retain(|_, failures| now < failures.since + WINDOW);
        }
        if peers.len() >= MOST_PEERS && !peers.contains_key(&peer) {
            return; // a flood from ten thousand networks: memory is bounded, and the secret is long
        }
        let failures = peers.entry(peer).or_insert(Failures { count: 0, since: now });
        if now >= failures.since + WINDOW {
            *failures = Failures { count: 0, since: now };
        }
        failures.count = failures.count.saturating_add(1);
    }
}

/// Who has one IPv6 address has the other 2^64 of its network as well.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_guess_of_a_minute_waits_and_other_peers_do_not() {
        let throttle = Throttle::default();
        let (guesser, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let at = Duration::from_secs;
        for _ in 0..10 {
            assert_eq!(throttle.check(guesser, at(5)), Ok(()));
            throttle.failed(guesser, at(5));
        }
        assert_eq!(throttle.check(guesser, at(15)), Err(at(50)));
        assert_eq!(throttle.check(other, at(15)), Ok(()));
        assert_eq!(throttle.check(guesser, at(65)), Ok(()));
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_peer() {
        let throttle = Throttle::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for host in 1..=10 {
            throttle.failed(address(&format!("2001:db8:1:2::{host:x}")), Duration::ZERO);
        }
        assert!(throttle.check(address("2001:db8:1:2:ffff::1"), Duration::ZERO).is_err());
        assert_eq!(throttle.check(address("2001:db8:1:3::1"), Duration::ZERO), Ok(()));
        assert_eq!(throttle.check(address("::ffff:10.0.0.1"), Duration::ZERO), Ok(()));
    }
}
