//! The command line. Without a verb: the table of goals, in five rounds.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "What the gateway costs, side by side with a proxy that does nothing", version)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// The gateway [default: target/release/ai4free, built if it is not current]
    #[arg(long, global = true)]
    pub(crate) binary: Option<PathBuf>,
    /// How often everything is measured
    #[arg(long, global = true)]
    rounds: Option<usize>,
    /// How long each load lasts, in seconds
    #[arg(long, global = true)]
    seconds: Option<f64>,
    /// Only these rows: see `rows/mod.rs` for their names
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Waits before each load until the machine has been idle, at most so many seconds
    #[arg(long, global = true, default_value_t = 0)]
    wait_idle: u64,
    /// Writes every figure of every round to this file
    #[arg(long, global = true)]
    pub(crate) json: Option<PathBuf>,
    /// Writes the table into this file, between its markers
    #[arg(long, global = true)]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Role {
    /// One short round of the table of goals: is it roughly as it was?
    Quick,
    /// Everything that there is, the growth rows and the soak too
    Full(Soak),
    /// From 1 to 100,000 keys
    Keys,
    /// From 10 to 10,000 models
    Models,
    /// From an empty ledger to a million rows
    Ledger,
    /// 5,000 streams in which nothing happens
    IdleStreams,
    /// 500 requests a second for a long time: does memory grow?
    Soak(Soak),
    /// The provider that answers at once
    Upstream { listen: SocketAddr },
    /// The bare proxy
    Floor { listen: SocketAddr, upstream: SocketAddr },
    /// One load on any server of this machine, by hand
    Load(LoadArguments),
    /// Opens streams and keeps them open until it is killed
    #[command(hide = true)]
    Hold(Hold),
}

#[derive(Args, Clone, Copy)]
pub(crate) struct Soak {
    /// How long the soak lasts
    #[arg(long, default_value_t = 10)]
    pub(crate) minutes: u64,
}

#[derive(Args)]
pub(crate) struct LoadArguments {
    /// http://ADDRESS/PATH
    pub(crate) url: String,
    #[arg(long, default_value = "bench")]
    pub(crate) model: String,
    /// An API key
    #[arg(long, default_value = "none")]
    pub(crate) key: String,
    #[arg(long, short, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Requests a second, however fast they are answered; without it each connection sends its next one after the answer
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    #[arg(long)]
    pub(crate) stream: bool,
    /// Bytes of the prompt
    #[arg(long, default_value_t = 400)]
    pub(crate) prompt: usize,
    /// Whose CPU time and memory are told
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

#[derive(Args)]
pub(crate) struct Hold {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    pub(crate) streams: usize,
}

impl Options {
    pub(crate) fn rounds(&self, role: Option<&Role>) -> usize {
        self.rounds.unwrap_or(if matches!(role, Some(Role::Quick)) { 1 } else { 5 })
    }

    pub(crate) fn seconds(&self, role: Option<&Role>) -> Duration {
        let default = if matches!(role, Some(Role::Quick)) { 2.0 } else { 4.0 };
        Duration::from_secs_f64(self.seconds.unwrap_or(default).clamp(0.1, 3600.0))
    }

    pub(crate) fn wait_idle(&self) -> Duration {
        Duration::from_secs(self.wait_idle)
    }
}
