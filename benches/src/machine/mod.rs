//! What `/proc` tells of a process and of the machine.

mod idle;
mod process;

pub(crate) use idle::{busy_cores, wait_until_idle};
pub(crate) use process::{CpuTimes, Spent, resident_kib};
