//! The gateway as a process: started on a free port with a directory and stores of its own, stopped with a signal, and asked
//! afterwards how it ended and what it wrote.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    MockUpstream, Request, Response, eventually, get,
    http::{Connection, Exchange},
    post,
    stores::Stores,
};

pub(crate) const SYSTEM_SECRET: &str = "zq7Vw2-canary-of-the-system-secret-9mXk4T";

pub(crate) struct GatewayBuilder {
    variables: Vec<(String, String)>,
    configuration: String,
}

/// A running gateway. Dropped without [`Gateway::stop`] it is killed.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    child: Child,
    home: TempDir,
    stores: Arc<Stores>,
    variables: Vec<(String, String)>,
}

/// A key of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) text: String,
}

impl GatewayBuilder {
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The provider `openai`, with one credential.
    pub(crate) fn openai(self, upstream: &MockUpstream) -> Self {
        self.set("OPENAI_API_KEY", "provider-key-1").set("OPENAI_BASE_URL", &upstream.url())
    }

    /// More of `ai4free.toml`.
    pub(crate) fn toml(mut self, text: &str) -> Self {
        self.configuration.push_str(text);
        self.configuration.push('\n');
        self
    }

    pub(crate) async fn start(self) -> Gateway {
        self.start_over(Arc::new(Stores::fresh().await)).await
    }

    /// One that must not start: its exit code and what it said.
    pub(crate) async fn refused(self) -> (Option<i32>, String) {
        let stores = Stores::fresh().await;
        let refused = self.refused_over(&stores).await;
        stores.drop_database().await;
        refused
    }

    /// The same beside another gateway.
    pub(crate) async fn refused_beside(self, other: &Gateway) -> (Option<i32>, String) {
        self.refused_over(&other.stores).await
    }

    async fn refused_over(self, stores: &Stores) -> (Option<i32>, String) {
        let (home, variables) = self.prepare(stores);
        refused(spawn(home.path(), &variables), home.path()).await
    }

    async fn start_over(self, stores: Arc<Stores>) -> Gateway {
        let (home, variables) = self.prepare(&stores);
        let child = spawn(home.path(), &variables);
        Gateway::served(child, home, stores, variables).await
    }

    fn prepare(self, stores: &Stores) -> (TempDir, Vec<(String, String)>) {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("ai4free.toml"), &self.configuration).unwrap();
        let defaults = [
            ("HOST", "127.0.0.1"),
            ("PORT", "0"),
            ("SYSTEM_SECRET", SYSTEM_SECRET),
            ("AI4FREE__SERVER__PRE_STOP_SECONDS", "0"),
            ("AI4FREE__DEFAULT_PLAN", "unlimited"),
        ];
        let mut variables: Vec<(String, String)> =
            defaults.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        variables.extend(stores.environment());
        variables.extend(self.variables);
        (home, variables)
    }
}

impl Gateway {
    pub(crate) fn builder() -> GatewayBuilder {
        GatewayBuilder { variables: Vec::new(), configuration: String::new() }
    }

    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// With one provider, `openai`.
    pub(crate) async fn before(upstream: &MockUpstream) -> Self {
        Self::builder().openai(upstream).start().await
    }

    /// A gateway that must not start: its exit code and what it said.
    pub(crate) async fn refused_again(mut self, changed: (&str, &str)) -> (Option<i32>, String) {
        let home = std::mem::replace(&mut self.home, tempfile::tempdir().unwrap());
        let mut variables = self.variables.clone();
        variables.push((changed.0.to_owned(), changed.1.to_owned()));
        let refused = refused(spawn(home.path(), &variables), home.path()).await;
        self.stores.drop_database().await;
        refused
    }

    /// Another process over the same stores.
    pub(crate) async fn replica(&self, builder: GatewayBuilder) -> Self {
        builder.start_over(self.stores.clone()).await
    }

    /// `kill -9`.
    pub(crate) fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same gateway again, after its end, on what is left of it.
    pub(crate) async fn again(mut self) -> Self {
        let home = std::mem::replace(&mut self.home, tempfile::tempdir().unwrap());
        fs::rename(home.path().join("stderr"), home.path().join("stderr-before")).unwrap();
        let child = spawn(home.path(), &self.variables);
        Self::served(child, home, self.stores.clone(), self.variables.clone()).await
    }

    async fn served(mut child: Child, home: TempDir, stores: Arc<Stores>, variables: Vec<(String, String)>) -> Self {
        let log = home.path().join("stderr");
        let address = eventually("the gateway's address", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the gateway ended with {ended:?}:\n{text}");
            let address = text.lines().find_map(served_address);
            async move { address }
        })
        .await;
        let gateway = Self { address, child, home, stores, variables };
        eventually("readiness", || async { (gateway.send(&get("/readyz")).await.status == 200).then_some(()) }).await;
        gateway
    }

    pub(crate) async fn send(&self, request: &Request) -> Response {
        request.send(self.address).await
    }

    /// Asks until Redis has answered in time, where limits are closed if it has not: what was in doubt is void.
    pub(crate) async fn decided(&self, request: &Request) -> Response {
        let answered = || async { Some(self.send(request).await).filter(|response| response.status != 503) };
        eventually("a decision", answered).await
    }

    pub(crate) async fn open(&self, request: &Request) -> Exchange {
        request.open(self.address).await
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::to(self.address).await
    }

    /// A request with the system secret.
    pub(crate) async fn administer(&self, request: Request) -> Response {
        self.send(&request.header("x-system-secret", SYSTEM_SECRET)).await
    }

    /// A key without limits.
    pub(crate) async fn key(&self) -> Key {
        self.key_with(json!({})).await
    }

    pub(crate) async fn key_with(&self, mut members: Value) -> Key {
        members.as_object_mut().unwrap().entry("name").or_insert("test".into());
        let response = self.administer(post("/v1/api-keys", &members)).await;
        assert_eq!(response.status, 201, "{}", response.text());
        Key::of(&response.json())
    }

    /// What the ledger says of a key.
    pub(crate) async fn usage(&self, key: &Key) -> Value {
        self.send(&get("/v1/usage").key(&key.text)).await.success()
    }

    /// The same, when it counts so many requests.
    pub(crate) async fn usage_of(&self, key: &Key, requests: u64) -> Value {
        eventually("usage rows", || async {
            let usage = self.usage(key).await;
            let total = usage["total_requests"].as_u64().unwrap();
            assert!(total <= requests, "more rows than requests: {usage}");
            (total == requests).then_some(usage)
        })
        .await
    }

    /// A verb of the command line, beside the gateway: its exit code, and what it printed as JSON.
    pub(crate) fn command(&self, line: &str) -> (Option<i32>, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_ai4free"))
            .current_dir(self.home())
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .args(line.split(' '))
            .args(["--output", "json"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::String(complaint)))
    }

    /// [`Stores::redis`].
    pub(crate) async fn redis(&self, command: &[&str]) -> String {
        self.stores.redis(command).await
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home().join(".ai4free")
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.home().join("stderr")).unwrap()
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(self.home().join("stdout")).unwrap()
    }

    /// Where metrics are, if they are.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.stderr().lines().find_map(|line| address_in(line, "metrics are served"))
    }

    /// `ulimit -f` of the running process: no file of it grows beyond this any more. `None` lifts it.
    pub(crate) fn limit_file_size(&self, bytes: Option<u64>) {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let pid = self.child.id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).status().unwrap();
        assert!(limited.success());
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the end of the gateway", || {
            let ended = child.try_wait().unwrap();
            async move { ended }
        })
        .await
    }

    /// Stops it as an operator would. It must end well, and must not have panicked.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        self.assert_ended_well().await;
        if Arc::strong_count(&self.stores) == 1 {
            // Of several processes over one database, the last one out.
            self.stores.drop_database().await;
        }
    }

    /// The same for one that has logged errors because the test made some.
    pub(crate) async fn stop_after_trouble(mut self) {
        self.terminate();
        let status = self.ended().await;
        let log = self.stderr();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        if Arc::strong_count(&self.stores) == 1 {
            self.stores.drop_database().await;
        }
    }

    pub(crate) async fn assert_ended_well(&mut self) {
        let status = self.ended().await;
        let log = self.stderr();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the gateway at {}\n{}", self.address, self.stderr());
        }
    }
}

impl Key {
    pub(crate) fn of(created: &Value) -> Self {
        Self { id: created["id"].as_str().unwrap().to_owned(), text: created["api_key"].as_str().unwrap().to_owned() }
    }
}

fn spawn(home: &Path, variables: &[(String, String)]) -> Child {
    let file = |name: &str| File::create(home.join(name)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ai4free"))
        .current_dir(home)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .unwrap()
}

async fn refused(mut child: Child, home: &Path) -> (Option<i32>, String) {
    let status = eventually("the end of a gateway that can't serve", || {
        let ended = child.try_wait().unwrap();
        async move { ended }
    })
    .await;
    (status.code(), fs::read_to_string(home.join("stderr")).unwrap())
}

/// Of the log's line that tells it.
fn served_address(line: &str) -> Option<SocketAddr> {
    address_in(line, "serving")
}

fn address_in(line: &str, message: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == message).then(|| line["address"].as_str().unwrap().parse().unwrap())
}

/// How long a change may take to reach every process.
pub(crate) const EVERYWHERE: Duration = Duration::from_secs(1);
