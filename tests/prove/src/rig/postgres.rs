//! A private Postgres that may be stopped, killed and started again.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{
    eventually::eventually,
    ports::free_address,
    process::{Process, Signal},
    sql::Session,
};

pub(crate) struct Postgres {
    pub(crate) address: SocketAddr,
    /// Of the user `postgres`; a canary, too.
    pub(crate) password: String,
    programs: PathBuf,
    home: TempDir,
    account: Option<Account>,
    process: Option<Process>,
}

/// Postgres refuses to run as root.
#[derive(Clone, Copy)]
struct Account {
    user: u32,
    group: u32,
}

impl Postgres {
    pub(crate) async fn start(password: &str) -> Self {
        let home = tempfile::Builder::new().prefix("ai4free-prove-pg.").tempdir_in("/tmp").unwrap();
        let account = (number("id", &["-u"]) == Some(0)).then(|| {
            let name = if number("id", &["-u", "postgres"]).is_some() { "postgres" } else { "nobody" };
            Account { user: number("id", &["-u", name]).unwrap(), group: number("id", &["-g", name]).unwrap() }
        });
        if let Some(account) = account {
            std::os::unix::fs::chown(home.path(), Some(account.user), Some(account.group)).unwrap();
        }
        let mut postgres = Self {
            address: free_address(),
            password: password.to_owned(),
            programs: newest_programs(),
            home,
            account,
            process: None,
        };
        postgres.initialise();
        postgres.start_again().await;
        postgres
    }

    fn initialise(&self) {
        let password_file = self.home.path().join("password");
        fs::write(&password_file, &self.password).unwrap();
        let made = self
            .command("initdb")
            .args(["-U", "postgres", "-A", "password", "--no-sync", "-E", "UTF8", "--locale=C", "--pwfile"])
            .arg(&password_file)
            .arg("-D")
            .arg(self.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// Commits reach the kernel (so that `kill -9` loses none) and need not reach the disk.
    pub(crate) async fn start_again(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let port = self.address.port().to_string();
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=100"])
            .args(["-c", "shared_buffers=32MB", "-c", "max_wal_size=1GB", "-c", "autovacuum=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.process = Some(Process::spawn("postgres", &mut command));
        eventually("a Postgres that answers", || async {
            self.session("postgres").await.ok()?.query("SELECT 1").await.ok()
        })
        .await;
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Everybody at once, as if the machine hung.
    pub(crate) fn pause(&self) {
        self.running().signal_family(Signal::Stop);
    }

    pub(crate) fn resume(&self) {
        self.running().signal_family(Signal::Continue);
    }

    /// Runs, whatever was done to it.
    pub(crate) async fn heal(&mut self) {
        match &self.process {
            Some(process) => process.signal_family(Signal::Continue),
            None => self.start_again().await,
        }
    }

    pub(crate) async fn session(&self, database: &str) -> Result<Session, super::sql::SqlError> {
        Session::open(self.address, &self.password, database).await
    }

    pub(crate) async fn create_database(&self, name: &str) {
        let mut session = self.session("postgres").await.unwrap();
        session.query(&format!("CREATE DATABASE {name}")).await.unwrap();
    }

    pub(crate) async fn drop_database(&self, name: &str) {
        let mut session = self.session("postgres").await.unwrap();
        session.query(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }

    /// All of a database as text.
    pub(crate) fn dump(&self, database: &str) -> String {
        let dumped = Command::new(self.programs.join("pg_dump"))
            .env("PGPASSWORD", &self.password)
            .args(["-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-U", "postgres", "-d", database])
            .output()
            .unwrap();
        assert!(dumped.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dumped.stderr));
        String::from_utf8(dumped.stdout).unwrap()
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/tmp").env_remove("PGDATA");
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command
    }
}

/// Debian keeps the server's programs out of PATH.
fn newest_programs() -> PathBuf {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("initdb").exists())
        .collect();
    versions.sort();
    let asked = || {
        let found = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(Path::new(String::from_utf8(found.stdout).ok()?.trim()).to_owned())
    };
    versions.pop().map(|(_, programs)| programs).or_else(asked).expect("Postgres is not installed")
}

fn number(program: &str, arguments: &[&str]) -> Option<u32> {
    let told = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(told.stdout).ok()?.trim().parse().ok()
}
