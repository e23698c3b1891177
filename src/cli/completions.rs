//! `completions`: for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{arguments::Arguments, exit::ExitStatus, output};

pub(super) fn run(shell: Shell) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ai4free", &mut script);
    output::print_line(String::from_utf8(script)?.trim_end())?;
    Ok(ExitStatus::Success)
}
