//! `openapi`: the specification, as it is served.

use super::{exit::ExitStatus, output};
use crate::http;

pub(super) fn run() -> anyhow::Result<ExitStatus> {
    output::print_line(http::specification().trim_end())?;
    Ok(ExitStatus::Success)
}
