use ai4free_ports::{budget::Epoch, rate_limiter::RATE_WINDOW};
use fred::{
    bytes_utils::Str,
    clients::{Client, WithOptions},
    error::{Error, ErrorKind},
    interfaces::LuaInterface,
    types::{FromValue, Key, Value},
    util::sha1_hash,
};

use crate::heartbeat::LEASE;

const MONEY: &str = include_str!("money.lua");
const COPIES: &str = include_str!("copies.lua");
const OPERATIONS: &str = include_str!("limiter.lua");
const CORRECTION: &str = include_str!("correction.lua");

const SERVER_TIME: &str = "local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
";

/// In milliseconds in a key; it begins at 0, and stands still between changes.
#[cfg(feature = "contract")]
const MOVABLE_TIME: &str =
    "local function server_ms() return tonumber(redis.call('GET', KEYS[2] .. ':movable') or 0) end
";

/// What one call of the script is given.
pub(crate) struct Arguments {
    pub(crate) keys: Vec<Key>,
    pub(crate) values: Vec<Value>,
}

/// Whose time the script goes by.
#[derive(Clone, Copy)]
pub(crate) enum TimeSource {
    Server,
    #[cfg(feature = "contract")]
    Movable,
}

/// A script as this version has it. Another version has another digest, so both can run side by side.
pub(crate) struct Script {
    source: String,
    /// To be cloned for each call.
    digest: Str,
}

impl Script {
    /// The script of one epoch or, without money, of all of them.
    pub(crate) fn new(time: TimeSource, epoch: Option<Epoch>) -> Self {
        let epoch = epoch.map_or("nil".to_owned(), |epoch| epoch.0.to_string());
        let (window, lease) = (RATE_WINDOW.as_secs(), LEASE.as_millis());
        let time = match time {
            TimeSource::Server => SERVER_TIME,
            #[cfg(feature = "contract")]
            TimeSource::Movable => MOVABLE_TIME,
        };
        let source = format!(
            "local EPOCH = {epoch}\nlocal WINDOW, LEASE_MS = {window}, {lease}\n{time}{MONEY}{COPIES}{OPERATIONS}"
        );
        Self { digest: sha1_hash(&source).into(), source }
    }

    /// The script of [`crate::RedisBudgetCounters`].
    pub(crate) fn correction() -> Self {
        let source = format!("{MONEY}{CORRECTION}");
        Self { digest: sha1_hash(&source).into(), source }
    }

    /// One EVALSHA. A server that does not know the script (new, restarted, failed over, flushed) is given it, once.
    pub(crate) async fn call<R: FromValue>(
        &self,
        client: &WithOptions<Client>,
        arguments: impl Fn() -> Arguments,
    ) -> Result<R, Error> {
        match self.call_loaded(client, arguments()).await {
            Err(error) if is_unknown_script(&error) => {
                Box::pin(self.load(client)).await?;
                self.call_loaded(client, arguments()).await
            }
            answer => answer,
        }
    }

    /// One EVALSHA. That a server does not know the script is an error: see [`is_unknown_script`].
    pub(crate) async fn call_loaded<R: FromValue>(
        &self,
        client: &WithOptions<Client>,
        arguments: Arguments,
    ) -> Result<R, Error> {
        // The client's future has kilobytes, and all that it is wrapped in would move it once more: not so in a box.
        Box::pin(client.evalsha(self.digest.clone(), arguments.keys, arguments.values)).await
    }

    /// Onto every primary of a cluster.
    pub(crate) async fn load(&self, client: &WithOptions<Client>) -> Result<(), Error> {
        client.script_load_cluster::<Value, _>(self.source.as_str()).await.map(|_| ())
    }
}

pub(crate) fn is_unknown_script(error: &Error) -> bool {
    *error.kind() != ErrorKind::Timeout && error.details().starts_with("NOSCRIPT")
}
