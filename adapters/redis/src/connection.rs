use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use fred::{
    clients::{Client, WithOptions},
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::{
        FromValue,
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

/// What is left of the deadline for the client itself to forget a command that was not answered.
const FORGETTING: Duration = Duration::from_millis(10);
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Probes without an answer after which a connection is replaced: about a second.
const SILENCES: u32 = 3;

/// Some connections that share the work, fail fast and come back by themselves, and the script that they call.
pub(crate) struct Connections {
    clients: Vec<WithOptions<Client>>,
    next: AtomicUsize,
    breaker: Breaker,
    script: Script,
    deadline: Duration,
}

impl Connections {
    /// Connects nothing yet: see [`Connections::run`].
    pub(crate) fn new(options: &RedisOptions, script: Script) -> Self {
        let command_timeout = options.deadline.saturating_sub(FORGETTING);
        let fail_fast =
            Options { max_attempts: Some(1), timeout: Some(command_timeout), fail_fast: true, ..Options::default() };
        let clients =
            (0..options.connections).map(|_| client(options, command_timeout).with_options(&fail_fast)).collect();
        let deadline = options.deadline;
        Self { clients, next: AtomicUsize::new(0), breaker: Breaker::default(), script, deadline }
    }

    /// Of one call, a reload of the script included.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Calls the script. `arguments` may be asked twice.
    pub(crate) async fn call<R: FromValue>(&self, arguments: impl Fn() -> Arguments) -> Result<R, Unavailable> {
        self.call_on(self.client()?, arguments).await
    }

    /// As [`Connections::call`], on this connection.
    pub(crate) async fn call_on<R: FromValue>(
        &self,
        client: &WithOptions<Client>,
        arguments: impl Fn() -> Arguments,
    ) -> Result<R, Unavailable> {
        self.within_deadline(self.script.call(client, arguments)).await
    }

    /// Calls a script that the server should know.
    pub(crate) async fn call_loaded<R: FromValue>(
        &self,
        script: &Script,
        arguments: Arguments,
    ) -> Result<R, Unavailable> {
        self.within_deadline(script.call_loaded(self.client()?, arguments)).await
    }

    /// The outcome of one command, which the breaker is told as well.
    pub(crate) async fn within_deadline<R>(
        &self,
        command: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Unavailable> {
        if self.breaker.is_open() {
            return Err(Unavailable::Suspended);
        }
        let outcome = match timeout(self.deadline, command).await {
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

    /// Waits for the first connection.
    pub(crate) async fn connected(&self) {
        if let Some(client) = self.clients.first() {
            // An error would be the end of the client, and that ends with the process.
            let _ = client.wait_for_connect().await;
        }
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
        let _ = timeout(self.deadline, quits).await;
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
            let answers = join_all(self.clients.iter().map(|client| is_alive(client, self.deadline))).await;
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

    /// Loads the script as soon as there is a server.
    async fn introduce(&self) {
        self.connected().await;
        if let Some(client) = self.clients.first() {
            // A failure shows, and is mended, with the first call.
            let _ = self.script.load(client).await;
        }
        std::future::pending::<()>().await;
    }
}

async fn is_alive(client: &WithOptions<Client>, deadline: Duration) -> bool {
    matches!(timeout(deadline, client.ping::<()>(None)).await, Ok(Ok(())))
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
fn client(options: &RedisOptions, command_timeout: Duration) -> Client {
    let mut server = options.server.clone();
    server.fail_fast = false;
    let performance = PerformanceConfig { default_command_timeout: command_timeout, ..PerformanceConfig::default() };
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
