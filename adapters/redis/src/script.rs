use ai4free_ports::rate_limiter::RATE_WINDOW;
use fred::{
    clients::{Client, WithOptions},
    error::{Error, ErrorKind},
    interfaces::LuaInterface,
    types::{FromValue, Key, Value},
    util::sha1_hash,
};

use crate::heartbeat::LEASE;

const BODY: &str = include_str!("limiter.lua");

const SERVER_TIME: &str = "local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
";

/// What one call of the script is given.
pub(crate) struct Arguments {
    pub(crate) keys: Vec<Key>,
    pub(crate) values: Vec<Value>,
}

/// The limiter's script as this version has it. Another version has another digest, so both can run side by side.
pub(crate) struct Script {
    source: String,
    digest: String,
}

impl Script {
    pub(crate) fn on_server_time() -> Self {
        Self::with_time(SERVER_TIME)
    }

    /// Takes the time in milliseconds from a key, and stands still between changes of it.
    #[cfg(feature = "contract")]
    pub(crate) fn on_movable_time() -> Self {
        Self::with_time("local function server_ms() return tonumber(redis.call('GET', KEYS[2] .. ':movable')) end\n")
    }

    /// One EVALSHA. A server that does not know the script (new, restarted, failed over, flushed) is given it, once.
    pub(crate) async fn call<R: FromValue>(
        &self,
        client: &WithOptions<Client>,
        arguments: impl Fn() -> Arguments,
    ) -> Result<R, Error> {
        let Arguments { keys, values } = arguments();
        match client.evalsha(self.digest.as_str(), keys, values).await {
            Err(error) if is_unknown_script(&error) => {
                self.load(client).await?;
                let Arguments { keys, values } = arguments();
                client.evalsha(self.digest.as_str(), keys, values).await
            }
            answer => answer,
        }
    }

    /// Onto every primary of a cluster.
    pub(crate) async fn load(&self, client: &WithOptions<Client>) -> Result<(), Error> {
        client.script_load_cluster::<Value, _>(self.source.as_str()).await.map(|_| ())
    }

    fn with_time(time: &str) -> Self {
        let (window, lease) = (RATE_WINDOW.as_secs(), LEASE.as_millis());
        let source = format!("local WINDOW, LEASE_MS = {window}, {lease}\n{time}{BODY}");
        Self { digest: sha1_hash(&source), source }
    }
}

fn is_unknown_script(error: &Error) -> bool {
    *error.kind() != ErrorKind::Timeout && error.details().starts_with("NOSCRIPT")
}
