//! Thousands of streams in which nothing happens: what each costs, and what they cost others.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::ensure;

use super::{Row, Stage};
use crate::{
    load::{Load, Outcome},
    machine::resident_kib,
    report::{Figure, IDLE_NEIGHBOURS, IDLE_STREAM, Sheet},
    rig::{Gateway, Plan, Process},
};

pub(super) struct IdleStreams;

const STREAMS: u32 = 5_000;
const REQUESTS_PER_SECOND: f64 = 200.0;

impl Row for IdleStreams {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        // A gateway that has never had so many.
        let gateway = stage.another(&Plan::default())?;
        let load = |load: Load| load.rate(REQUESTS_PER_SECOND);
        let p99 = |outcome: &Outcome| outcome.tally.latency.value_at_quantile(0.99) as f64 / 1000.0;
        let without = stage.on(&gateway, load)?;
        let before = resident_kib(gateway.process.id());
        let streams = open(&gateway)?;
        let during = resident_kib(gateway.process.id());
        let with = stage.on(&gateway, load)?;
        drop(streams);
        let each = during.saturating_sub(before) as f64 / f64::from(STREAMS);
        sheet.record(&IDLE_STREAM, Figure::alone(each));
        sheet.record(&IDLE_NEIGHBOURS, Figure::beside(p99(&without), p99(&with)));
        Ok(())
    }
}

/// They end with the process.
fn open(gateway: &Gateway) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    let count = STREAMS.to_string();
    command.args(["hold", &gateway.address.to_string(), &gateway.key, &count]).stdout(Stdio::piped());
    let mut streams = Process::spawn("hold", &mut command)?;
    let mut said = String::new();
    BufReader::new(streams.output()?).read_line(&mut said)?;
    ensure!(said.trim() == "open", "the streams can't be opened");
    Ok(streams)
}
