//! `man`: the manual page, in roff.

use clap::CommandFactory;

use super::{arguments::Arguments, exit::ExitStatus, output};

pub(super) fn run() -> anyhow::Result<ExitStatus> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
    output::print_line(String::from_utf8(page)?.trim_end())?;
    Ok(ExitStatus::Success)
}
