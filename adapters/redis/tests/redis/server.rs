//! Redis servers that a test may stop, kill and flush, and limiters on them.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::TcpListener,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use ai4free_redis::{RedisOptions, RedisRateLimiter};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::ledger::Epochs;

/// A server of its own, killed when dropped.
pub(crate) struct RedisServer {
    port: u16,
    arguments: &'static [&'static str],
    process: Child,
}

impl RedisServer {
    /// `None`: there is no `redis-server` on this machine, and the test is skipped.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(arguments: &'static [&'static str]) -> Option<Self> {
        let port = free_port();
        let Some(process) = spawn(port, arguments) else {
            skip("redis-server is not installed");
            return None;
        };
        let server = Self { port, arguments, process };
        server.wait_until_it_listens().await;
        Some(server)
    }

    /// On a port on which there was nothing so far.
    pub(crate) async fn start_on(port: u16) -> Option<Self> {
        let server = Self { port, arguments: &[], process: spawn(port, &[])? };
        server.wait_until_it_listens().await;
        Some(server)
    }

    pub(crate) fn options(&self, replica: &str) -> RedisOptions {
        options(self.port, replica)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends a signal to this process.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args([name, &id]).status().await.unwrap().success());
    }

    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.port, self.arguments).unwrap();
        self.wait_until_it_listens().await;
    }

    /// One inline command; the first line of its reply.
    pub(crate) async fn command(&self, command: &str) -> String {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap());
        stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_line(&mut reply).await.unwrap();
        reply.trim_end().to_owned()
    }

    /// This one included.
    pub(crate) async fn connections_so_far(&self) -> u64 {
        self.command("CLIENT ID").await.trim_start_matches(':').parse().unwrap()
    }

    async fn wait_until_it_listens(&self) {
        let listens = || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        eventually("server that listens", listens).await;
    }
}

/// One replica of the gateway, as far as limits go.
pub(crate) struct Replica {
    pub(crate) limiter: Arc<RedisRateLimiter>,
    pub(crate) ledger: Arc<Epochs>,
    pub(crate) shutdown: CancellationToken,
    /// Its death, when dropped.
    pub(crate) worker: JoinSet<()>,
}

impl Replica {
    /// With a ledger of its own.
    pub(crate) async fn start(options: &RedisOptions) -> Self {
        Self::start_with(options, Arc::default()).await
    }

    pub(crate) async fn start_with(options: &RedisOptions, ledger: Arc<Epochs>) -> Self {
        let replica = Self::start_unconnected(options, ledger);
        eventually("connection", || replica.limiter.is_fully_connected()).await;
        replica
    }

    pub(crate) fn start_without_redis(options: &RedisOptions) -> Self {
        Self::start_unconnected(options, Arc::default())
    }

    fn start_unconnected(options: &RedisOptions, ledger: Arc<Epochs>) -> Self {
        let shutdown = CancellationToken::new();
        let (limiter, work) = RedisRateLimiter::connect(options, ledger.clone(), shutdown.clone());
        let mut worker = JoinSet::new();
        worker.spawn(work);
        Self { limiter, ledger, shutdown, worker }
    }
}

pub(crate) fn options(port: u16, replica: &str) -> RedisOptions {
    RedisOptions::new(&format!("redis://127.0.0.1:{port}"), replica).unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A prefix of keys that no other test has.
pub(crate) fn own_prefix() -> String {
    format!("test-{:x}", RandomState::new().build_hasher().finish())
}

/// Waits for a condition, 20 s at most.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), wait).await.is_ok(), "no {what} within 20 s");
}

pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("AI4FREE_TEST_REQUIRE_SERVICES").is_none_or(|value| value != "1"), "{reason}");
    println!("skipped: {reason}");
}

fn spawn(port: u16, arguments: &[&str]) -> Option<Child> {
    let port = port.to_string();
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
        // A follower takes the data of its primary over at once, and leaves no file for the next server to find.
        .args(["--repl-diskless-sync-delay", "0", "--repl-diskless-load", "on-empty-db"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()
}
