//! What the process tells of itself: to who asks whether to send it requests, and to a scraper.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ai4free_local::{CachedKeyStore, SpoolJournal};

use super::{Misconfigured, limiter::Limiter};
use crate::{
    application::{drains::Drains, gate::Gate, unmetered::Unmetered},
    http::{ReadinessSource, Standing},
    telemetry::{Telemetry, Times},
};

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
const LOOK_FOR_A_FENCE: Duration = Duration::from_secs(5);

pub(super) struct Readiness {
    pub(super) journal: Arc<SpoolJournal>,
    pub(super) store: Arc<CachedKeyStore>,
    pub(super) limiter: Limiter,
    /// Until the database has been migrated and the limiter mode is ours.
    pub(super) gate: Arc<Gate>,
    pub(super) drains: Arc<Drains>,
    pub(super) unmetered: Arc<Unmetered>,
    /// Whether requests are served although the journal takes none.
    pub(super) serves_unmetered: bool,
    pub(super) draining: AtomicBool,
}

impl Readiness {
    /// Waits until this process can spend by itself, and out of shared grants if there are any.
    pub(super) async fn budgets_are_open(&self) {
        while self.journal.holder().get().is_none() || !self.limiter.takes_money() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Ends only when the ledger takes no usage from this process any more: it can't account, and must not go on.
    pub(super) async fn fenced(&self) -> Misconfigured {
        while !self.journal.figures().is_fenced {
            tokio::time::sleep(LOOK_FOR_A_FENCE).await;
        }
        Misconfigured(
            "another process has taken over the usage journal of this one: they must not share a directory. What is in it is \
             brought to the ledger when it is started again"
                .to_owned(),
        )
    }
}

impl ReadinessSource for Readiness {
    fn standing(&self) -> Standing {
        let figures = self.journal.figures();
        let goes_on = self.serves_unmetered && !figures.is_fenced;
        let blockers = [
            ("starting", !self.gate.is_open()),
            ("draining", self.draining.load(Ordering::Relaxed)),
            ("spool", figures.is_refusing && !goes_on),
        ];
        let degraded = [
            ("database", !self.store.store_is_up()),
            ("redis", !self.limiter.is_up()),
            ("spool", figures.is_refusing && goes_on),
        ];
        let named =
            |flags: &[(&'static str, bool)]| flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        Standing { blockers: named(&blockers), degraded: named(&degraded) }
    }
}

pub(super) fn register_figures(telemetry: &Telemetry, readiness: &Arc<Readiness>) -> anyhow::Result<()> {
    type Figure = fn(&Readiness) -> u64;
    let figures: [(&str, &str, Figure); 10] = [
        ("ai4free_spool_bytes", "Bytes in the usage journal.", |at| at.journal.figures().bytes),
        ("ai4free_spool_undrained_events", "Usage events that are not in the ledger yet.", |at| {
            at.journal.figures().undrained_events
        }),
        ("ai4free_spool_oldest_age_seconds", "Age of the oldest usage event that is not in the ledger yet.", |at| {
            at.journal.figures().undrained_age.as_secs()
        }),
        ("ai4free_spool_unwritten_requests", "Ended requests whose usage the disk does not take.", |at| {
            at.journal.figures().unwritten_closes
        }),
        ("ai4free_requests_open", "Requests that are admitted and have not ended.", |at| {
            at.journal.figures().open_requests
        }),
        ("ai4free_calls_drained", "Calls that go on although their client has gone.", |at| at.drains.running() as u64),
        ("ai4free_database_up", "Whether the database answers.", |at| u64::from(at.store.store_is_up())),
        ("ai4free_limiter_up", "Whether the rate limiter answers.", |at| u64::from(at.limiter.is_up())),
        ("ai4free_usage_copies", "Requests of which Redis keeps a copy until their usage is in the ledger.", |at| {
            at.limiter.copies()
        }),
        ("ai4free_limiter_money_up", "Whether the shared limiter takes claims of money.", |at| {
            u64::from(at.limiter.takes_money())
        }),
    ];
    for (name, help, figure) in figures {
        let readiness = readiness.clone();
        let read = move || i64::try_from(figure(&readiness)).unwrap_or(i64::MAX);
        telemetry.metrics.register_gauge(name, help, Box::new(read))?;
    }
    let counters: [(&str, &str, Figure); 4] = [
        (
            "ai4free_degraded_reservations_total",
            "Requests that were admitted by the policies of their limits while the shared limiter was away.",
            |at| at.limiter.degraded_reservations(),
        ),
        (
            "ai4free_leases_reaped_total",
            "Reservations of money that were given up because the process that held them died.",
            |at| at.limiter.given_up_leases(),
        ),
        (
            "ai4free_usage_copies_refused_total",
            "Requests of which Redis keeps no copy, because it keeps as many as it may.",
            |at| at.limiter.refused_copies(),
        ),
        (
            "ai4free_unmetered_requests_total",
            "Requests that were served although the usage journal took none: they may have no row.",
            |at| at.unmetered.served(),
        ),
    ];
    for (name, help, figure) in counters {
        let readiness = readiness.clone();
        telemetry.metrics.register_counter(name, help, Box::new(move || figure(&readiness)))?;
    }
    let journal = readiness.journal.clone();
    let write_times = move || {
        let times = journal.write_times();
        Times { bounds: times.bounds, counts: times.counts.to_vec(), sum: times.sum }
    };
    telemetry.metrics.register_histogram(
        "ai4free_spool_write_seconds",
        "Writes of a record to the usage journal.",
        Box::new(write_times),
    )?;
    Ok(())
}
