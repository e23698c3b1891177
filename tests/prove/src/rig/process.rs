//! A process that the harness has started, and only such a process, is signalled.

use std::{
    fs,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use tokio::time::sleep;

use super::eventually::eventually_within;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Stop,
    Continue,
    Kill,
    Terminate,
}

/// Killed when dropped.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        Self { child, name }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        send(signal, &[self.id()]);
    }

    /// The process and its children: the process first when it is to stop, because a stopped one makes no more of them.
    pub(crate) fn signal_family(&self, signal: Signal) {
        if matches!(signal, Signal::Stop | Signal::Kill) {
            send(Signal::Stop, &[self.id()]);
        }
        let mut family = children_of(self.id());
        family.push(self.id());
        send(signal, &family);
    }

    /// `kill -9`, and the end of it.
    pub(crate) async fn kill(&mut self) {
        let mut family = children_of(self.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        family.retain(|id| is_alive(*id));
        if !family.is_empty() {
            send(Signal::Kill, &family);
        }
        while family.iter().any(|id| is_alive(*id)) {
            sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn wait(&mut self, within: Duration) -> ExitStatus {
        let name = self.name;
        eventually_within(within, &format!("the end of {name}"), || {
            let ended = self.ended();
            async move { ended }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = children_of(self.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        send(Signal::Kill, &family);
    }
}

/// Signals that can't be delivered are for processes that have ended: no fault.
fn send(signal: Signal, ids: &[u32]) {
    let name = match signal {
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
        Signal::Kill => "-KILL",
        Signal::Terminate => "-TERM",
    };
    if !ids.is_empty() {
        let ids = ids.iter().map(u32::to_string);
        Command::new("kill").arg(name).args(ids).stderr(std::process::Stdio::null()).status().unwrap();
    }
}

/// From `/proc`: a server like Postgres gives each of its children a process group of its own.
fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// What has ended and was not waited for is not alive.
fn is_alive(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
