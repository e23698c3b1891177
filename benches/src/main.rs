//! What the gateway costs, side by side with a proxy that does nothing.
//!
//! `cargo run --release -p ai4free-bench` starts a provider that answers at once ([`upstream`]), a bare proxy ([`floor`]) and the
//! release build of the gateway, puts load on each in turn ([`load`]), round after round, and prints how the figures stand
//! against the goals ([`report`]). A measure is a file in [`rows`]. What the figures mean is in `BENCHMARKS.md`.
//!
//! To add a measure: a constant in `report/goals.rs`, and a row that records it, with a line in the table of `rows/mod.rs`.

#![expect(clippy::disallowed_methods, reason = "a benchmark has a clock, tasks and processes of its own")]
#![expect(clippy::float_arithmetic, reason = "figures are quotients, and nobody is charged for them")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program that prints its figures")]

mod arguments;
mod floor;
mod hold;
mod load;
mod machine;
mod report;
mod rig;
mod rounds;
mod rows;
mod upstream;

use anyhow::Context;
use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::arguments::{Arguments, Role};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Upstream { listen }) => single_threaded()?.block_on(upstream::serve(listen)),
        Some(Role::Floor { listen, upstream }) => {
            Builder::new_multi_thread().enable_all().build()?.block_on(floor::serve(listen, upstream))
        }
        Some(Role::Hold(hold)) => single_threaded()?.block_on(hold::run(&hold)),
        Some(Role::Load(load)) => load::by_hand(&load),
        role => rounds::run(&arguments.options, role.as_ref()),
    }
}

/// For what must not take the second core from whom it measures.
fn single_threaded() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("can't make a runtime")
}
