//! A private Postgres that may be made to stand still.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::ensure;
use tempfile::TempDir;

use super::{Process, ports::free_address};

pub(crate) struct Postgres {
    address: SocketAddr,
    pub(crate) process: Process,
    _home: TempDir,
}

impl Postgres {
    /// `None`: it is not installed.
    pub(crate) fn start() -> anyhow::Result<Option<Self>> {
        let Some(programs) = newest_programs() else { return Ok(None) };
        // Not TMPDIR: the account that Postgres runs under must be able to enter it.
        let home = tempfile::Builder::new().prefix("ai4free-bench-postgres-").tempdir_in("/tmp")?;
        let account = account()?;
        if let Some((user, group)) = account {
            chown(home.path(), Some(user), Some(group))?;
        }
        let data = home.path().join("data");
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir("/tmp").env_remove("PGDATA").arg("-D").arg(&data).stdout(Stdio::null());
            if let Some((user, group)) = account {
                command.uid(user).gid(group);
            }
            command
        };
        let made = command("initdb")
            .args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"])
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let address = free_address()?;
        let log = home.path().join("log");
        let mut server = command("postgres");
        server
            .args(["-p", &address.port().to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .stderr(fs::File::create(&log)?);
        let mut process = Process::spawn("postgres", &mut server)?;
        process.wait_until(|| {
            let says_so = fs::read_to_string(&log).is_ok_and(|log| log.contains("ready to accept connections"));
            says_so && TcpStream::connect(address).is_ok()
        })?;
        Ok(Some(Self { address, process, _home: home }))
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }
}

/// Debian keeps the server's programs out of PATH.
fn newest_programs() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("initdb").exists())
        .collect();
    versions.sort();
    let asked = || {
        let told = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(Path::new(String::from_utf8(told.stdout).ok()?.trim()).to_owned())
            .filter(|programs| programs.join("initdb").exists())
    };
    versions.pop().map(|(_, programs)| programs).or_else(asked)
}

/// User and group of the account to run under: Postgres refuses to run as root.
fn account() -> anyhow::Result<Option<(u32, u32)>> {
    if number(&["-u"]) != Some(0) {
        return Ok(None);
    }
    let name = if number(&["-u", "postgres"]).is_some() { "postgres" } else { "nobody" };
    Ok(Some((number(&["-u", name]), number(&["-g", name]))).and_then(|(user, group)| Some((user?, group?))))
}

fn number(arguments: &[&str]) -> Option<u32> {
    let told = Command::new("id").args(arguments).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(told.stdout).ok()?.trim().parse().ok()
}
