//! A steady load for a long time: whether memory grows, and whether requests become dearer.

use std::{thread, time::Duration};

use anyhow::{Context, anyhow};

use super::{Row, Stage};
use crate::{
    machine::{CpuTimes, resident_kib},
    report::{Figure, SOAK_CPU, SOAK_SLOPE, Sheet},
    rig::Plan,
};

pub(super) struct Soak;

const REQUESTS_PER_SECOND: f64 = 500.0;
/// Caches and pools have their size by then: memory is looked at from there on.
const WARM: f64 = 1.0 / 3.0;
const SAMPLES: u32 = 120;

impl Row for Soak {
    fn measure(&mut self, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
        let gateway = stage.another(&Plan::default())?;
        let (process, length) = (gateway.process.id(), stage.soak);
        let watcher = thread::Builder::new().spawn(move || watch(process, length))?;
        let mut load = crate::load::Load::closed(gateway.address, &gateway.key, 64, length).rate(REQUESTS_PER_SECOND);
        load.warm_up = Duration::ZERO;
        let outcome = stage.run(&load, process)?;
        let samples = watcher.join().map_err(|_| anyhow!("the watcher has ended"))?;
        let warm: Vec<&Sample> = samples.iter().filter(|sample| sample.hours > WARM * hours(length)).collect();
        let points: Vec<(f64, f64)> = warm.iter().map(|sample| (sample.hours, sample.megabytes)).collect();
        sheet.record(&SOAK_SLOPE, Figure::alone(slope(&points).context("too few looks at the memory")?));
        let cpu = |samples: &[&Sample]| samples.iter().map(|sample| sample.cpu).sum::<f64>() / samples.len() as f64;
        let (first, last) = warm.split_at(warm.len() / 2);
        let per_sample = REQUESTS_PER_SECOND * length.as_secs_f64() / f64::from(SAMPLES);
        sheet.record(&SOAK_CPU, Figure::beside(cpu(first) / per_sample, cpu(last) / per_sample));
        sheet.aside("soak: requests", outcome.sent as f64);
        sheet.aside("soak: MB at the end", samples.last().map_or(0.0, |sample| sample.megabytes));
        Ok(())
    }
}

struct Sample {
    hours: f64,
    megabytes: f64,
    /// Microseconds since the last one.
    cpu: f64,
}

fn watch(process: u32, length: Duration) -> Vec<Sample> {
    let step = length / SAMPLES;
    let mut before = CpuTimes::of(process);
    let mut samples = Vec::new();
    for number in 1..=SAMPLES {
        thread::sleep(step);
        let now = CpuTimes::of(process);
        samples.push(Sample {
            hours: hours(step * number),
            megabytes: resident_kib(process) as f64 / 1024.0,
            cpu: now.since(&before).total.as_secs_f64() * 1e6,
        });
        before = now;
    }
    samples
}

fn hours(duration: Duration) -> f64 {
    duration.as_secs_f64() / 3600.0
}

/// Of the straight line that fits best. `None`: there is none.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (spread > 0.0).then(|| common / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line() {
        let points = [(0.0, 10.0), (0.5, 11.0), (1.0, 12.0)];
        assert_eq!(slope(&points), Some(2.0));
        assert_eq!(slope(&points[..1]), None);
    }
}
