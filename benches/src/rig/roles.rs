//! The upstream and the bare proxy: this same binary, in processes of their own.

use std::{env, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::{Context, ensure};

use super::{Process, ports::free_address, process::with_many_files};

pub(crate) struct Roles {
    pub(crate) upstream: SocketAddr,
    pub(crate) floor: SocketAddr,
    pub(crate) floor_process: Process,
    _upstream_process: Process,
}

impl Roles {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let upstream = free_address()?;
        let upstream_process = role("upstream", &[upstream])?;
        let floor = free_address()?;
        let floor_process = role("floor", &[floor, upstream])?;
        Ok(Self { upstream, floor, floor_process, _upstream_process: upstream_process })
    }
}

/// Waits until it accepts connections.
fn role(name: &str, addresses: &[SocketAddr]) -> anyhow::Result<Process> {
    let mut command = with_many_files(env::current_exe()?);
    command.arg(name).args(addresses.iter().map(SocketAddr::to_string));
    let mut process = Process::spawn(name, &mut command)?;
    let listen = addresses.first().context("a role listens somewhere")?;
    process.wait_until(|| std::net::TcpStream::connect(listen).is_ok())?;
    Ok(process)
}

/// The release build of the gateway as it is now, beside this program.
pub(crate) fn current_binary() -> anyhow::Result<PathBuf> {
    // Set by `cargo run`; a program that was copied elsewhere has nothing to build.
    if let Some(cargo) = env::var_os("CARGO") {
        let built = Command::new(cargo)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .args(["build", "--release", "--locked", "--package", "ai4free", "--bin", "ai4free"])
            .status()?;
        ensure!(built.success(), "the gateway can't be built");
    }
    let binary = env::current_exe()?.with_file_name("ai4free");
    ensure!(binary.exists(), "{} is not there: cargo build --release, or --binary", binary.display());
    Ok(binary)
}
