//! When requests are due.

use std::{
    cell::Cell,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::sync::{Mutex, mpsc};

use super::Load;

/// Where the connections of a load learn when their next request is due.
#[derive(Clone)]
pub(crate) enum Pacer {
    /// At once, until then and at most so many.
    Closed { end: Instant, most: u64, sent: Rc<Cell<u64>> },
    /// At fixed times.
    Open { due: Rc<Mutex<mpsc::UnboundedReceiver<Instant>>>, sent: Rc<Cell<u64>> },
}

impl Pacer {
    pub(crate) fn new(load: &Load, began: Instant, end: Instant) -> anyhow::Result<Self> {
        let sent = Rc::new(Cell::new(0));
        let most = load.most.unwrap_or(u64::MAX);
        let Some(rate) = load.rate else { return Ok(Self::Closed { end, most, sent }) };
        let length = end - began;
        let (sender, receiver) = mpsc::unbounded_channel();
        // A thread of its own: the runtime's timer goes by whole milliseconds.
        let tick = move || {
            let mut due = Duration::ZERO;
            for number in 1_u32.. {
                if due >= length {
                    return;
                }
                thread::sleep((began + due).saturating_duration_since(Instant::now()));
                if sender.send(began + due).is_err() {
                    return;
                }
                due = Duration::from_secs_f64(f64::from(number) / rate);
            }
        };
        thread::Builder::new().name("pacer".to_owned()).spawn(tick).context("can't keep the time")?;
        Ok(Self::Open { due: Rc::new(Mutex::new(receiver)), sent })
    }

    /// `None`: the load has ended.
    pub(crate) async fn next(&self) -> Option<Instant> {
        let due = match self {
            Self::Closed { end, most, sent } => Some(Instant::now()).filter(|now| now < end && sent.get() < *most),
            Self::Open { due, .. } => due.lock().await.recv().await,
        };
        if due.is_some() {
            self.sent().set(self.sent().get() + 1);
        }
        due
    }

    /// How many requests there were so far.
    pub(crate) fn sent(&self) -> &Cell<u64> {
        match self {
            Self::Closed { sent, .. } | Self::Open { sent, .. } => sent,
        }
    }
}
