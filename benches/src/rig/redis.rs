//! A private Redis, and what it has been asked to do.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use tempfile::TempDir;

use super::{Process, ports::free_address};

pub(crate) struct Redis {
    address: SocketAddr,
    _process: Process,
    _home: TempDir,
}

impl Redis {
    /// `None`: it is not installed.
    pub(crate) fn start() -> anyhow::Result<Option<Self>> {
        let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let (address, home) = (free_address()?, tempfile::tempdir()?);
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(home.path())
            .stdout(Stdio::null());
        let mut process = Process::spawn("redis-server", &mut command)?;
        process.wait_until(|| command_stats(address).is_ok())?;
        Ok(Some(Self { address, _process: process, _home: home }))
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Counts the calls of the limiter's script while something is done.
    pub(crate) fn watched<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Watched<T>> {
        let mut monitor = TcpStream::connect(self.address)?;
        monitor.write_all(b"MONITOR\r\n")?;
        let (lines, end) = (BufReader::new(monitor.try_clone()?), monitor);
        thread::scope(|scope| {
            let counter = scope.spawn(move || {
                let mut counts = (0, 0);
                for line in lines.lines().map_while(Result::ok) {
                    match operation(&line) {
                        Some(RESERVE) => counts.0 += 1,
                        Some(SETTLE) => counts.1 += 1,
                        _ => {}
                    }
                }
                counts
            });
            let during = work();
            // For the settlements of the last requests.
            thread::sleep(LAST_SETTLEMENTS);
            end.shutdown(Shutdown::Both)?;
            let (reservations, settlements) = counter.join().map_err(|_| anyhow!("the monitor has ended"))?;
            Ok(Watched { reservations, settlements, during: during? })
        })
    }
}

/// Calls of the script, by what they were for.
pub(crate) struct Watched<T> {
    pub(crate) reservations: u32,
    /// Each of many requests.
    pub(crate) settlements: u32,
    pub(crate) during: T,
}

/// As `adapters/redis/src/limiter.lua` names them.
const RESERVE: &str = "R";
const SETTLE: &str = "S";
const LAST_SETTLEMENTS: Duration = Duration::from_millis(200);

/// What a line of MONITOR calls the script for: its first argument after the keys.
/// <https://redis.io/docs/latest/commands/monitor/>
fn operation(line: &str) -> Option<&str> {
    let (_, call) = line.split_once("] ")?;
    let mut words = call.split("\" \"").map(|word| word.trim_matches('"'));
    let (command, _digest, keys) = (words.next()?, words.next()?, words.next()?);
    if !command.eq_ignore_ascii_case("evalsha") {
        return None;
    }
    words.nth(keys.parse().ok()?)
}

/// <https://redis.io/docs/latest/commands/info/>
fn command_stats(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    stream.get_mut().write_all(b"INFO commandstats\r\n")?;
    let mut length = String::new();
    stream.read_line(&mut length)?;
    let length: u64 = length.trim().strip_prefix('$').context("not the length of a text")?.parse()?;
    let mut stats = String::new();
    stream.take(length).read_to_string(&mut stats)?;
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_stands_after_the_keys() {
        let line = r#"1753.1 [0 127.0.0.1:1] "EVALSHA" "abc" "2" "{a4f}:a" "{a4f}:b" "R" "lease""#;
        assert_eq!(operation(line), Some(RESERVE));
        assert_eq!(operation(r#"1753.1 [0 lua] "HSET" "k" "f" "S""#), None);
        assert_eq!(operation("OK"), None);
    }
}
