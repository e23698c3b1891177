//! How long this machine, busy as it is, takes for next to nothing: what a bound on a latency has to allow for.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::sleep};

use crate::{findings::percentile, rig::client::Request};

const EVERY: Duration = Duration::from_millis(5);

/// When something was asked, and how long it took.
pub(crate) type Measured = (Instant, Duration);

/// Asks a gateway whether it lives, which needs no store, for as long as it is kept.
pub(crate) struct Noise {
    measuring: JoinHandle<()>,
    measured: Arc<Mutex<Vec<Measured>>>,
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.measuring.abort();
    }
}

impl Noise {
    pub(crate) fn at(gateway: SocketAddr) -> Self {
        let measured = Arc::<Mutex<Vec<Measured>>>::default();
        let measuring = tokio::spawn({
            let measured = Arc::clone(&measured);
            async move {
                loop {
                    let asked = Instant::now();
                    if Request::new("GET", "/livez").send(gateway).await.is_ok() {
                        measured.lock().unwrap().push((asked, asked.elapsed()));
                    }
                    sleep(EVERY).await;
                }
            }
        });
        Self { measuring, measured }
    }

    pub(crate) fn measured(&self) -> Vec<Measured> {
        self.measured.lock().unwrap().clone()
    }

    /// The longest so far.
    pub(crate) fn worst(&self) -> Duration {
        self.measured().iter().map(|(_, took)| *took).max().unwrap_or_default()
    }
}

/// By how much the 99th percentile of a typical second (the median over seconds, so that one hiccup does not decide) has grown
/// from one time to another, beyond what next to nothing takes in the same seconds.
pub(crate) fn added_p99(
    measured: &[Measured],
    noise: &[Measured],
    before: (Instant, Instant),
    during: (Instant, Instant),
) -> Duration {
    let grown = typical_p99(measured, during).saturating_sub(typical_p99(measured, before));
    grown.saturating_sub(typical_p99(noise, during))
}

fn typical_p99(measured: &[Measured], (from, to): (Instant, Instant)) -> Duration {
    let mut worst_of_seconds = Vec::new();
    let mut second = from;
    while second + Duration::from_millis(900) <= to {
        let next = second + Duration::from_secs(1);
        let inside = measured.iter().filter(|(asked, _)| (second..next).contains(asked));
        let mut took: Vec<Duration> = inside.map(|(_, took)| *took).collect();
        took.sort_unstable();
        worst_of_seconds.push(percentile(&took, 99));
        second = next;
    }
    worst_of_seconds.sort_unstable();
    percentile(&worst_of_seconds, 50)
}
