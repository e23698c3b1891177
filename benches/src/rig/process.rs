//! A process that the benchmark has started, and only such a process, is signalled.

use std::{
    ffi::OsStr,
    fs,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped, with its children.
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub(crate) fn spawn(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("{name} can't be started"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it prints; once.
    pub(crate) fn output(&mut self) -> anyhow::Result<impl std::io::Read + use<>> {
        self.child.stdout.take().context("its output is not ours")
    }

    /// SIGTERM, and its end.
    pub(crate) fn terminate(&mut self) -> anyhow::Result<()> {
        signal("-TERM", &[self.id()])?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < PATIENCE, "{} does not end", self.name);
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The process and its children stand still until [`resume`](Self::resume).
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        // First the parent, which then makes no more of them.
        signal("-STOP", &[self.id()])?;
        signal("-STOP", &children(self.id()))
    }

    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        signal("-CONT", &children(self.id()))?;
        signal("-CONT", &[self.id()])
    }

    /// Until `is_ready`; fails when the process has ended, or after a minute.
    pub(crate) fn wait_until(&mut self, mut is_ready: impl FnMut() -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        while !is_ready() {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "{} ended: {ended:?}", self.name);
            ensure!(began.elapsed() < PATIENCE, "{} is not ready", self.name);
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let children = children(self.id());
        // A process that has ended already can't be killed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        let _ended = signal("-KILL", &children);
    }
}

/// A command with as many open files as the machine lets it have.
pub(crate) fn with_many_files(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#]).arg(program);
    command
}

fn signal(signal: &str, processes: &[u32]) -> anyhow::Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    let ids = processes.iter().map(u32::to_string);
    // Those that have ended meanwhile can't be signalled.
    Command::new("kill").arg(signal).args(ids).stderr(Stdio::null()).status().context("can't run kill")?;
    Ok(())
}

/// From `/proc`: a server like Postgres gives each of its children a process group of its own.
fn children(parent: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}
