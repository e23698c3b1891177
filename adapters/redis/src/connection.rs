use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use fred::{
    clients::{Client, WithOptions},
    error::ErrorKind,
    interfaces::ClientLike,
    types::{
        FromValue, InfoKind,
        config::{ConnectionConfig, Options, PerformanceConfig, ReconnectPolicy, TcpConfig},
    },
};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    breaker::Breaker,
    options::RedisOptions,
    script::{Arguments, Script},
    unavailable::Unavailable,
};

/// Of one call, a reload of the script included: the port allows 150 ms, and the answer has to be made within them as well.
const DEADLINE: Duration = Duration::from_millis(130);
/// Of one command; less than the deadline, so that the client itself forgets the command.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(120);
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Probes without an answer after which a connection is replaced: about a second.
const SILENCES: u32 = 3;

/// Some connections that share the work, fail fast and come back by themselves, and the script that they call.
pub(crate) struct Connections {
    clients: Vec<WithOptions<Client>>,
    next: AtomicUsize,
    breaker: Breaker,
    script: Script,
}

impl Connections {
    /// Connects nothing yet: see [`Connections::run`].
    pub(crate) fn new(options: &RedisOptions, script: Script) -> Self {
        let fail_fast =
            Options { max_attempts: Some(1), timeout: Some(COMMAND_TIMEOUT), fail_fast: true, ..Options::default() };
        let clients = (0..options.connections).map(|_| client(options).with_options(&fail_fast)).collect();
        Self { clients, next: AtomicUsize::new(0), breaker: Breaker::default(), script }
    }

    /// Calls the script. `arguments` may be asked twice.
    pub(crate) async fn call<R: FromValue>(&self, arguments: impl Fn() -> Arguments) -> Result<R, Unavailable> {
        if self.breaker.is_open() {
            return Err(Unavailable::Suspended);
        }
        let client = self.client()?;
        let outcome = match timeout(DEADLINE, self.script.call(client, arguments)).await {
            Err(_) => Err(Unavailable::Timeout),
            Ok(Err(error)) if *error.kind() == ErrorKind::Timeout => Err(Unavailable::Timeout),
            Ok(Err(error)) => Err(Unavailable::Refused(error)),
            Ok(Ok(reply)) => Ok(reply),
        };
        match &outcome {
            Err(Unavailable::Timeout) => self.breaker.timed_out(),
            Err(Unavailable::Refused(error)) if error.details().starts_with("READONLY") => self.breaker.was_demoted(),
            Err(_) => {}
            Ok(_) => self.breaker.answered(),
        }
        outcome
    }

    /// Whether a call now has a chance.
    pub(crate) fn is_up(&self) -> bool {
        !self.breaker.is_open() && self.clients.iter().any(|client| client.is_connected())
    }

    #[cfg(feature = "contract")]
    pub(crate) fn are_all_connected(&self) -> bool {
        self.clients.iter().all(|client| client.is_connected())
    }

    /// Connects, for as long as `shutdown` is not cancelled, and probes a Redis that stopped answering.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        let connected = join_all(self.clients.iter().map(keep_connected));
        tokio::select! {
            _ = connected => {}
            () = self.probe() => {}
            () = self.introduce() => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Closes the connections.
    pub(crate) async fn close(&self) {
        let quits = join_all(self.clients.iter().map(|client| client.quit()));
        // A server that does not answer is not worth waiting for.
        let _ = timeout(DEADLINE, quits).await;
    }

    /// The next connection in turn, or the one after it that is connected.
    pub(crate) fn client(&self) -> Result<&WithOptions<Client>, Unavailable> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len().max(1);
        let (before, after) = self.clients.split_at_checked(turn).ok_or(Unavailable::Reply)?;
        let mut in_turn = after.iter().chain(before);
        in_turn.clone().find(|client| client.is_connected()).or_else(|| in_turn.next()).ok_or(Unavailable::Reply)
    }

    /// After a timeout, asks every connection until all answer, and replaces those that stay silent: one of them may be dead
    /// while the others work. (The client's own check of this starts anew with every command.)
    async fn probe(&self) {
        let mut silences = vec![0_u32; self.clients.len()];
        let mut was_up = true;
        loop {
            sleep(PROBE_EVERY).await;
            let is_up = self.is_up();
            match (was_up, is_up) {
                (true, false) => tracing::warn!("Redis does not answer"),
                (false, true) => tracing::info!("Redis answers again"),
                _ => {}
            }
            was_up = is_up;
            if self.breaker.take_demotion() {
                tracing::warn!("Redis became read-only: connecting again to find the primary");
                join_all(self.clients.iter().map(reconnect)).await;
            }
            if !self.breaker.is_suspicious() {
                continue;
            }
            let answers = join_all(self.clients.iter().map(is_alive)).await;
            if self.breaker.is_open() && answers.contains(&true) {
                self.breaker.answered();
            }
            if answers.iter().all(|answered| *answered) {
                self.breaker.all_is_well();
            }
            for ((client, answered), silence) in self.clients.iter().zip(answers).zip(&mut silences) {
                *silence = if answered || !client.is_connected() { 0 } else { *silence + 1 };
                if *silence == SILENCES {
                    *silence = 0;
                    reconnect(client).await;
                }
            }
        }
    }

    /// Loads the script as soon as there is a server, and warns of what will bite later.
    async fn introduce(&self) {
        if let Some(client) = self.clients.first()
            && client.wait_for_connect().await.is_ok()
        {
            // A failure shows, and is mended, with the first call.
            let _ = self.script.load(client).await;
            if let Ok(info) = client.info::<String>(None::<InfoKind>).await {
                warn_of(&info);
            }
        }
        std::future::pending::<()>().await;
    }
}

async fn is_alive(client: &WithOptions<Client>) -> bool {
    matches!(timeout(DEADLINE, client.ping::<()>(None)).await, Ok(Ok(())))
}

/// Asks for a new connection, and does not wait for it: a silent server would not let it through.
async fn reconnect(client: &WithOptions<Client>) {
    let _ = timeout(Duration::from_millis(10), client.force_reconnection()).await;
}

/// Starts the client again whenever it gives up, which it does after some errors (a wrong password, for one).
async fn keep_connected(client: &WithOptions<Client>) {
    loop {
        if let Ok(Err(error)) = client.connect().await {
            tracing::warn!(kind = error.kind().to_str(), "connection to Redis ended");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// The client's defaults wait for ever: for an answer, and in one case for a connection.
fn client(options: &RedisOptions) -> Client {
    let mut server = options.server.clone();
    server.fail_fast = false;
    let performance = PerformanceConfig { default_command_timeout: COMMAND_TIMEOUT, ..PerformanceConfig::default() };
    let connection = ConnectionConfig {
        connection_timeout: Duration::from_millis(500),
        internal_command_timeout: Duration::from_millis(500),
        max_command_attempts: 1,
        reconnect_on_auth_error: true,
        tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
        ..ConnectionConfig::default()
    };
    // No limit of attempts; 50 ms to 500 ms between them.
    let policy = ReconnectPolicy::new_exponential(0, 50, 500, 2);
    Client::new(server, Some(performance), Some(connection), Some(policy))
}

/// `info` is the reply of INFO.
fn warn_of(info: &str) {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let major = field("redis_version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    if major.is_some_and(|major| major < 7) {
        tracing::warn!(version = field("redis_version"), "Redis is older than version 7");
    }
    if field("maxmemory_policy").is_some_and(|policy| policy != "noeviction") {
        tracing::warn!(
            policy = field("maxmemory_policy"),
            "Redis may evict limits when its memory is full: set maxmemory-policy to noeviction"
        );
    }
    if field("role").is_some_and(|role| role != "master") {
        tracing::warn!("Redis is a replica, which can't be written to");
    }
}
