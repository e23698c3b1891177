//! One replica: a process of the real binary, with a directory of its own that outlives it.

use std::{
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    client::{self, Request},
    eventually::{eventually, eventually_within},
    process::Process,
};

/// How long a start may take on a machine that does other things as well.
const START: Duration = Duration::from_secs(60);

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    /// Where `/metrics` is.
    pub(crate) admin: SocketAddr,
    pub(crate) process: Process,
    home: TempDir,
    variables: Vec<(String, String)>,
    system_secret: String,
    /// Runs the binary: by default itself.
    launcher: Launcher,
    lives: u32,
}

/// What stands before the binary on the command line, such as a shell that sets limits.
#[derive(Clone, Default)]
pub(crate) struct Launcher {
    pub(crate) words: Vec<String>,
}

/// A key of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) text: String,
}

impl Gateway {
    /// Does not wait: see [`Gateway::is_ready`].
    pub(super) fn spawn(
        settings: &str,
        variables: Vec<(String, String)>,
        system_secret: &str,
        launcher: Launcher,
    ) -> Self {
        let home = tempfile::Builder::new().prefix("ai4free-prove-gw.").tempdir_in("/tmp").unwrap();
        fs::write(home.path().join("ai4free.toml"), settings).unwrap();
        let process = launch(home.path(), &variables, &launcher, 1);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let system_secret = system_secret.to_owned();
        Self { address: nowhere, admin: nowhere, process, home, variables, system_secret, launcher, lives: 1 }
    }

    /// Another life over the same directory; the one before must have ended.
    pub(crate) fn spawn_again(&mut self) {
        assert!(self.process.ended().is_some(), "a gateway is started while it runs");
        self.lives += 1;
        self.process = launch(self.home.path(), &self.variables, &self.launcher, self.lives);
    }

    pub(crate) async fn start_again(&mut self) {
        self.spawn_again();
        self.serving().await;
    }

    /// Waits until it is ready for requests.
    pub(crate) async fn serving(&mut self) {
        self.address = self.announced("serving").await;
        self.admin = self.announced("metrics are served").await;
        let address = self.address;
        eventually_within(START, "a gateway that is ready", || async move { ready(address).await.then_some(()) }).await;
    }

    async fn announced(&mut self, message: &str) -> SocketAddr {
        let log = self.log_path();
        let process = &mut self.process;
        eventually_within(START, "the address of a gateway", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let ended = process.ended();
            assert!(ended.is_none(), "a gateway ended with {ended:?}:\n{text}");
            let address = text.lines().find_map(|line| address_in(line, message));
            async move { address }
        })
        .await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        ready(self.address).await
    }

    /// Asks again while the machine is too busy for the database to answer in time.
    pub(crate) async fn key(&self, mut members: Value) -> Key {
        members.as_object_mut().unwrap().entry("name").or_insert("prove".into());
        let reply = eventually("an answer to the creation of a key", || async {
            let reply = self.administer("POST", "/v1/api-keys", Some(&members)).await;
            (reply.status != 503).then_some(reply)
        })
        .await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let body = reply.json();
        Key { id: text_of(&body["id"]), text: text_of(&body["api_key"]) }
    }

    pub(crate) async fn administer(&self, method: &str, path: &str, body: Option<&Value>) -> client::Reply {
        let mut request = Request::new(method, path).header("x-system-secret", &self.system_secret);
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send(self.address).await.unwrap()
    }

    pub(crate) async fn revoke(&self, key: &Key) {
        let path = format!("/v1/api-keys/{}", key.id);
        let reply = eventually("an answer to a revocation", || async {
            let reply = self.administer("DELETE", &path, None).await;
            (reply.status != 503).then_some(reply)
        })
        .await;
        assert!(matches!(reply.status, 200 | 204), "{} {}", reply.status, reply.text());
    }

    /// The sum of a metric over its labels; only lines whose labels contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let reply = Request::new("GET", "/metrics").send(self.admin).await.unwrap();
        let text = reply.text();
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(label)
        });
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    pub(crate) async fn readiness(&self) -> Value {
        match Request::new("GET", "/readyz").send(self.address).await {
            Ok(reply) => serde_json::from_str(&reply.text()).unwrap_or_default(),
            Err(_) => json!({}),
        }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.home().join(".ai4free").join("spool")
    }

    /// Of this life.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home().join(format!("stderr-{}", self.lives))
    }

    pub(crate) fn panics(&self) -> usize {
        let logs = (1..=self.lives).map(|life| self.home().join(format!("stderr-{life}")));
        logs.filter_map(|log| fs::read_to_string(log).ok()).map(|log| log.matches("panicked").count()).sum()
    }
}

/// What it complained of is part of why a proof did not come to its end.
impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"level\":\"INFO\"")).collect();
            eprintln!("--- gateway {} said last:", self.process.id());
            lines.iter().rev().take(20).rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

async fn ready(address: SocketAddr) -> bool {
    Request::new("GET", "/readyz").send(address).await.is_ok_and(|reply| reply.status == 200)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn launch(home: &Path, variables: &[(String, String)], launcher: &Launcher, life: u32) -> Process {
    let file = |name: String| OpenOptions::new().create(true).append(true).open(home.join(name)).unwrap();
    let mut words = launcher.words.iter().map(Path::new).chain([binary()]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .current_dir(home)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(file(format!("stdout-{life}")))
        .stderr(file(format!("stderr-{life}")));
    Process::spawn("ai4free", &mut command)
}

/// `AI4FREE_PROVE_BINARY`, or the binary that was built beside this one.
fn binary() -> &'static Path {
    static FOUND: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| {
        let beside = || std::env::current_exe().unwrap().with_file_name("ai4free");
        let path = std::env::var_os("AI4FREE_PROVE_BINARY").map_or_else(beside, PathBuf::from);
        assert!(File::open(&path).is_ok(), "{} is not there: cargo build -p ai4free", path.display());
        path
    })
}

fn address_in(line: &str, message: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == message).then(|| line["address"].as_str().unwrap().parse().unwrap())
}

/// Waits until nothing that a gateway has closed is missing from the ledger.
pub(crate) async fn drained(gateway: &Gateway) {
    eventually("an empty spool", || async {
        (gateway.metric("ai4free_spool_undrained_events", "").await == 0.0
            && gateway.metric("ai4free_requests_open", "").await == 0.0)
            .then_some(())
    })
    .await;
}
