use std::time::Duration;

use fred::{error::ErrorKind, types::config::Config};

use crate::{copies, script::TimeSource};

const SCHEMES: [&str; 6] =
    ["redis://", "rediss://", "redis-cluster://", "rediss-cluster://", "redis-sentinel://", "rediss-sentinel://"];

/// A caller is promised 150 ms, and the answer has to be made within them as well.
const DEADLINE: Duration = Duration::from_millis(130);

/// Where Redis is, and under which names this replica writes there. Has no `Debug`: it holds the password.
#[derive(Clone)]
pub struct RedisOptions {
    pub(crate) server: Config,
    pub(crate) replica: Box<str>,
    pub(crate) prefix: Box<str>,
    pub(crate) connections: usize,
    pub(crate) deadline: Duration,
    pub(crate) time: TimeSource,
    pub(crate) room_for_copies: i64,
}

/// Says nothing of the URL itself: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum InvalidOptions {
    #[error(
        "not the URL of a Redis: redis://, redis-cluster:// or redis-sentinel:// (rediss… for TLS), then user:password@host:port/database"
    )]
    Url,
    #[error("TLS can't be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a prefix of keys has 1 to 32 characters of A-Z a-z 0-9 . _ -")]
    Prefix,
    #[error("a replica has a name")]
    Replica,
}

impl RedisOptions {
    /// `replica` is the name of this process among its peers, new with each of its lives: `<family>.<life>`, where lives of the
    /// same family never run at the same time.
    ///
    /// # Errors
    /// When `url` or `replica` can't be used.
    pub fn new(url: &str, replica: &str) -> Result<Self, InvalidOptions> {
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(InvalidOptions::Url);
        }
        if replica.is_empty() {
            return Err(InvalidOptions::Replica);
        }
        let server = Config::from_url(url).map_err(|error| match error.kind() {
            ErrorKind::Tls => InvalidOptions::Tls(error.into()),
            _ => InvalidOptions::Url,
        })?;
        Ok(Self {
            server,
            replica: replica.into(),
            prefix: "a4f".into(),
            connections: 4,
            deadline: DEADLINE,
            time: TimeSource::Server,
            room_for_copies: copies::ROOM,
        })
    }

    /// The hash tag of all keys, `a4f` if not set: installations that share one Redis need different ones.
    ///
    /// # Errors
    /// When it is empty, too long, or has characters that could end the tag.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, InvalidOptions> {
        let is_plain = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if prefix.is_empty() || prefix.len() > 32 || !is_plain {
            return Err(InvalidOptions::Prefix);
        }
        self.prefix = prefix.into();
        Ok(self)
    }

    /// How long an answer is waited for, 130 ms if not set. For a Redis that is far away: a reservation that takes longer is
    /// decided without it.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Of leases and copies of all limiters with the same prefix.
    #[cfg(feature = "contract")]
    #[must_use]
    pub fn with_room_for_copies(mut self, room: i64) -> Self {
        self.room_for_copies = room;
        self
    }

    /// Lets [`crate::RedisRateLimiter::move_time`] decide the time, for all limiters with the same prefix.
    #[cfg(feature = "contract")]
    #[must_use]
    pub fn with_movable_time(mut self) -> Self {
        self.time = TimeSource::Movable;
        self
    }
}

#[cfg(test)]
mod tests {
    use fred::types::config::ServerConfig;

    use super::*;

    #[test]
    fn every_kind_of_url_is_understood() {
        let server = |url: &str| RedisOptions::new(url, "r").map(|options| options.server).map_err(|e| e.to_string());
        let plain = server("redis://user:secret@127.0.0.1:6380/2").unwrap();
        assert_eq!((plain.password.as_deref(), plain.database), (Some("secret"), Some(2)));
        assert!(matches!(plain.server, ServerConfig::Centralized { .. }));
        assert!(server("rediss://127.0.0.1:6380").unwrap().uses_tls());
        let cluster = server("redis-cluster://127.0.0.1:7000?node=127.0.0.1:7001").unwrap();
        assert!(matches!(cluster.server, ServerConfig::Clustered { .. }));
        let sentinel = server("redis-sentinel://127.0.0.1:26379?sentinelServiceName=main").unwrap();
        assert!(matches!(sentinel.server, ServerConfig::Sentinel { .. }));
    }

    #[test]
    fn no_error_tells_the_url() {
        for url in [
            "",
            "redis",
            "http://user:hunter2@host",
            "redis://user:hunter2@host:notaport",
            "redis-sentinel://:hunter2@",
        ] {
            let Err(error) = RedisOptions::new(url, "r") else { continue };
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(RedisOptions::new("redis://user:hunter2@host:notaport", "r").is_err());
    }

    #[test]
    fn a_prefix_can_not_break_out_of_the_hash_tag() {
        let options = RedisOptions::new("redis://127.0.0.1", "r").unwrap();
        for prefix in ["", "a}b", "{", "a b", &"x".repeat(33)] {
            assert!(options.clone().prefix(prefix).is_err(), "{prefix}");
        }
        assert!(options.prefix("tenant-1").is_ok());
    }
}
