//! The gateway's database file, from outside: another process, in Python, whose standard library has SQLite.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, ensure};

const SCRIPT: &str = include_str!("sqlite.py");

pub(crate) struct Sqlite {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Sqlite {
    pub(crate) fn is_installed() -> bool {
        let found = Command::new("python3").args(["-c", "import sqlite3"]).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    }

    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("python3");
        command.arg("-c").arg(SCRIPT).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("python3 can't be started")?;
        let commands = child.stdin.take().context("no way to tell Python anything")?;
        let answers = BufReader::new(child.stdout.take().context("no way to hear from Python")?);
        Ok(Self { child, commands, answers })
    }

    /// Nobody else writes to it until this is released: usage stays in the journal.
    pub(crate) fn hold(&mut self) -> anyhow::Result<()> {
        self.tell("hold")
    }

    pub(crate) fn release(&mut self) -> anyhow::Result<()> {
        self.tell("release")
    }

    /// So many more rows in the ledger, copies of one that is there.
    pub(crate) fn fill_ledger(&mut self, events: u64) -> anyhow::Result<()> {
        self.tell(&format!("fill {events}"))
    }

    fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.commands, "{command}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(answer.trim_end() == "done", "the database: can't {command}");
        Ok(())
    }
}

/// What it held is released with it.
impl Drop for Sqlite {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
