//! What others do on the machine, which is in every figure.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

/// Less than this is nobody.
const IDLE_CORES: f64 = 0.3;
/// Of the kernel's clock ticks, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// How many cores are busy during `span`.
pub(crate) fn busy_cores(span: Duration) -> f64 {
    let (began, before) = (Instant::now(), busy_ticks());
    sleep(span);
    busy_ticks().saturating_sub(before) as f64 / TICKS_PER_SECOND / began.elapsed().as_secs_f64()
}

/// Returns when nobody else is at work, or after `longest`.
pub(crate) fn wait_until_idle(longest: Duration) {
    let began = Instant::now();
    while began.elapsed() < longest && busy_cores(Duration::from_millis(500)) > IDLE_CORES {}
}

/// Of all cores, since the start of the machine.
fn busy_ticks() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let columns = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    // user nice system idle iowait irq softirq steal
    columns.enumerate().filter(|(column, _)| ![3, 4].contains(column)).filter_map(|(_, n)| n.parse::<u64>().ok()).sum()
}
