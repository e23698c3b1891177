//! The gateway with everything on: a key that is checked, limits of every kind and a budget, journal, ledger, metrics.

use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, Reply, catalogue, http::Session, ports::free_address, process::with_many_files};

const SYSTEM_SECRET: &str = "a-benchmark-has-no-secrets-and-needs-one";
/// High enough that nothing is ever refused: every request is checked against all of it.
const SETTINGS: &str = r#"
default_plan = "bench"

[plans.bench]
requests_per_minute = 1000000000
tokens_per_minute = 1000000000000
max_concurrent_requests = 1000000
budget = { amount_usd = "1000000" }

[limits.gateway]
requests_per_minute = 1000000000

[timeouts]
idle_seconds = 3600
total_seconds = 3600

[telemetry]
level = "warn"
log_format = "json"
"#;
const PATIENCE: Duration = Duration::from_secs(120);

/// What differs between the gateways of the rows.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    /// Environment variables.
    pub(crate) variables: Vec<(String, String)>,
    /// Models beside those that the rows ask for.
    pub(crate) models: Vec<String>,
}

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    pub(crate) process: Process,
    /// The text of its key.
    pub(crate) key: String,
    home: TempDir,
    binary: PathBuf,
    variables: Vec<(String, String)>,
}

impl Gateway {
    /// On an empty directory.
    pub(crate) fn start(binary: &Path, upstream: SocketAddr, plan: &Plan) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("ai4free-bench-").tempdir()?;
        let models = home.path().join("models.json");
        fs::write(&models, catalogue::file(&plan.models).to_string())?;
        fs::write(home.path().join("ai4free.toml"), SETTINGS)?;
        let (address, admin) = (free_address()?, free_address()?);
        let variable = |name: &str, value: String| (name.to_owned(), value);
        let mut variables = vec![
            variable("HOST", address.ip().to_string()),
            variable("PORT", address.port().to_string()),
            variable("AI4FREE__ADMIN__LISTEN", admin.to_string()),
            variable("AI4FREE__SERVER__PRE_STOP_SECONDS", "0".to_owned()),
            variable("AI4FREE__CATALOGUE__MODELS", models.display().to_string()),
            variable("SYSTEM_SECRET", SYSTEM_SECRET.to_owned()),
            variable("OPENAI_API_KEY", "bench".to_owned()),
            variable("OPENAI_BASE_URL", format!("http://{upstream}/v1")),
        ];
        variables.extend(plan.variables.iter().cloned());
        let process = spawn(binary, home.path(), &variables)?;
        let binary = binary.to_owned();
        let mut gateway = Self { address, admin, process, key: String::new(), home, binary, variables };
        gateway.wait_until_ready()?;
        gateway.key = gateway.administrator()?.new_key()?;
        // What a key may spend is granted by the ledger, with its first request.
        gateway.wait_until_served()?;
        Ok(gateway)
    }

    pub(crate) fn administrator(&self) -> anyhow::Result<Administrator> {
        Ok(Administrator { session: Session::open(self.address)? })
    }

    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.process.terminate()
    }

    /// Starts again on the same directory; the time until the first request succeeded.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.process = spawn(&self.binary, self.home.path(), &self.variables)?;
        self.wait_until_served()?;
        Ok(began.elapsed())
    }

    /// Until a completion succeeds.
    fn wait_until_served(&mut self) -> anyhow::Result<()> {
        let (address, key) = (self.address, format!("Bearer {}", self.key));
        let request = json!({"model": "bench", "messages": [{"role": "user", "content": "hi"}]});
        let served = self.process.wait_until(|| {
            let reply = Reply::post(address, "/v1/chat/completions", &[("authorization", &key)], &request);
            reply.is_ok_and(|reply| reply.status == 200)
        });
        served.with_context(|| self.log())
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let address = self.address;
        let ready =
            self.process.wait_until(|| Reply::get(address, "/readyz", &[]).is_ok_and(|reply| reply.status == 200));
        ready.with_context(|| self.log())
    }

    /// Until the ledger has everything.
    pub(crate) fn wait_until_drained(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let metrics = Reply::get(self.admin, "/metrics", &[])?.body;
            let left = ["ai4free_spool_undrained_events ", "ai4free_requests_open "].map(|name| {
                metrics.lines().find_map(|line| line.strip_prefix(name)).and_then(|left| left.parse::<f64>().ok())
            });
            if left == [Some(0.0), Some(0.0)] {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "the ledger does not get everything: {left:?} are left");
            // Rarely: the look itself is in the CPU time.
            sleep(Duration::from_millis(100));
        }
    }

    /// A request that the gateway answers by itself.
    pub(crate) fn ask(&self, path: &str) -> anyhow::Result<Value> {
        Reply::get(self.address, path, &[("authorization", &format!("Bearer {}", self.key))])?.json()
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.home.path().join(".ai4free").join("ai4free.db")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default()
    }
}

/// Who may make keys; on one connection.
pub(crate) struct Administrator {
    session: Session,
}

impl Administrator {
    pub(crate) fn new_key(&mut self) -> anyhow::Result<String> {
        let secret = [("x-system-secret", SYSTEM_SECRET)];
        let created =
            self.session.ask("POST", "/v1/api-keys", &secret, &json!({"name": "bench"}).to_string())?.json()?;
        created.get("api_key").and_then(Value::as_str).map(str::to_owned).context("a key without its text")
    }
}

fn spawn(binary: &Path, home: &Path, variables: &[(String, String)]) -> anyhow::Result<Process> {
    let file = |name: &str| OpenOptions::new().create(true).append(true).open(home.join(name));
    let mut command = with_many_files(binary.canonicalize()?);
    command
        .current_dir(home)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdout(file("stdout")?)
        .stderr(file("stderr")?);
    Process::spawn("the gateway", &mut command)
}
