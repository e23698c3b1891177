//! A private Redis that may be paused, killed, flushed and made read-only.

use std::{
    io,
    net::SocketAddr,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{
    eventually::eventually,
    ports::free_address,
    process::{Process, Signal},
};

pub(crate) struct Redis {
    pub(crate) address: SocketAddr,
    home: TempDir,
    process: Option<Process>,
}

/// An answer of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(String),
    Number(i64),
    Nothing,
    Error(String),
    Many(Vec<Answer>),
}

impl Answer {
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Every text within.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            Self::Many(answers) => answers.iter().flat_map(Self::texts).collect(),
            Self::Number(_) | Self::Nothing | Self::Error(_) => Vec::new(),
        }
    }
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let home = tempfile::Builder::new().prefix("ai4free-prove-redis.").tempdir_in("/tmp").unwrap();
        let mut redis = Self { address: free_address(), home, process: None };
        redis.start_again().await;
        redis
    }

    /// Without the data of the last life.
    pub(crate) async fn start_again(&mut self) {
        let port = self.address.port().to_string();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "local", "--dir"])
            .arg(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(Process::spawn("redis-server", &mut command));
        eventually("a Redis that answers", || async { self.try_command(&["PING"]).await.ok() }).await;
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    pub(crate) fn pause(&self) {
        self.process.as_ref().unwrap().signal(Signal::Stop);
    }

    pub(crate) fn resume(&self) {
        self.process.as_ref().unwrap().signal(Signal::Continue);
    }

    /// Runs, whatever was done to it.
    pub(crate) async fn heal(&mut self) {
        if let Some(process) = &self.process {
            process.signal(Signal::Continue);
        }
        self.kill().await;
        self.start_again().await;
    }

    pub(crate) async fn command(&self, words: &[&str]) -> Answer {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// A command that answers OK.
    pub(crate) async fn set(&self, words: &[&str]) {
        let answer = self.command(words).await;
        assert_eq!(answer.text(), Some("OK"), "{words:?}");
    }

    async fn try_command(&self, words: &[&str]) -> io::Result<Answer> {
        let mut stream = BufReader::new(TcpStream::connect(self.address).await?);
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.get_mut().write_all(request.as_bytes()).await?;
        read_answer(&mut stream).await
    }
}

/// <https://redis.io/docs/latest/develop/reference/protocol-spec/>
async fn read_answer(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (kind, rest) = line.trim_end().split_at(1);
    let length = || rest.parse::<i64>().map_err(|_| io::Error::other(format!("not an answer: {line}")));
    Ok(match kind {
        "+" => Answer::Text(rest.to_owned()),
        "-" => Answer::Error(rest.to_owned()),
        ":" => Answer::Number(length()?),
        "$" => match usize::try_from(length()?) {
            Ok(length) => {
                let mut text = vec![0; length + 2];
                stream.read_exact(&mut text).await?;
                text.truncate(length);
                Answer::Text(String::from_utf8_lossy(&text).into_owned())
            }
            Err(_) => Answer::Nothing,
        },
        "*" => {
            let mut answers = Vec::new();
            for _ in 0..length()?.max(0) {
                answers.push(Box::pin(read_answer(stream)).await?);
            }
            Answer::Many(answers)
        }
        _ => return Err(io::Error::other(format!("not an answer: {line}"))),
    })
}
