use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_contract::{
    recording::RecordingLedger,
    usage_journal::{Harness, Process, bound, charge, opened},
    usage_journal_contract,
};
use ai4free_ports::{
    error::JournalError,
    money::PicoUsd,
    runtime::{Clock, Timestamp},
    usage::UsageSource,
    usage_journal::{Checkpoint, UsageJournal},
    usage_ledger::{SpoolId, UsageEvent, UsageLedger},
};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    segment::{FileSystem, Volume},
    *,
};
use crate::{Drainer, OsSecrets, UuidV7Ids};

mod adoption;
mod crashes;
mod fates;
mod faults;
mod life;
mod power;
mod stalls;

const OPTIONS: SpoolOptions = SpoolOptions {
    capacity: 1 << 20,
    segment_bytes: 8 << 20,
    retention: Duration::from_secs(600),
    ballast_bytes: 4096,
    durability: Durability::ProcessSafe,
};

/// A data directory.
struct Place {
    data: TempDir,
    options: SpoolOptions,
    volume: Arc<dyn Volume>,
    clock: Arc<ManualClock>,
}

/// Stands still until a test moves it.
#[derive(Default)]
struct ManualClock {
    seconds: AtomicU64,
}

impl ManualClock {
    fn advance(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_790_000_000).saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }
}

struct Running {
    journal: Arc<SpoolJournal>,
    drainer: Drainer,
}

impl Running {
    fn open(&self, bound: &UsageEvent) -> Result<(), JournalError> {
        opened(&*self.journal, bound)
    }
}

impl Place {
    fn with(options: SpoolOptions) -> Self {
        let data = tempfile::tempdir().unwrap();
        Self { data, options, volume: Arc::new(FileSystem), clock: Arc::default() }
    }

    fn run(&self) -> Running {
        let ids = UuidV7Ids::new(self.clock.clone(), Arc::new(OsSecrets));
        let clock: Arc<dyn Clock> = self.clock.clone();
        let opened = SpoolJournal::open_on(&self.volume, &self.data.path().join("spool"), self.options, &clock, &ids);
        let (journal, drainer) = opened.unwrap();
        Running { journal, drainer }
    }

    /// A sync that nobody waits for any more still holds the directory of a process that was dropped.
    fn wait_until_released(&self) {
        for directory in fs::read_dir(self.data.path().join("spool")).into_iter().flatten() {
            let lock = fs::File::options().write(true).open(directory.unwrap().path().join("lock"));
            while lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err()) {
                std::thread::yield_now();
            }
        }
    }

    /// The segments of all spools, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for directory in fs::read_dir(self.data.path().join("spool")).unwrap() {
            found.extend(segment::list(&directory.unwrap().path()).unwrap().into_iter().map(|(_, path)| path));
        }
        found.sort();
        found
    }
}

impl Harness for Place {
    fn fresh() -> Self {
        Self::with(OPTIONS)
    }

    fn with_capacity(capacity: u64) -> Self {
        Self::with(SpoolOptions { capacity, ..OPTIONS })
    }

    fn start(&self) -> Box<dyn Process> {
        Box::new(self.run())
    }

    fn torn_copies(&self) -> impl Iterator<Item = Self> {
        let segments = self.segments();
        let [segment] = <[PathBuf; 1]>::try_from(segments).expect("one segment is enough for this");
        let length = fs::metadata(&segment).unwrap().len();
        (0..=length).map(move |cut| {
            let copy = Self::with(self.options);
            let target = copy.data.path().join(segment.strip_prefix(self.data.path()).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&segment, &target).unwrap();
            fs::File::options().write(true).open(&target).unwrap().set_len(cut).unwrap();
            copy
        })
    }
}

#[async_trait]
impl Process for Running {
    fn journal(&self) -> Arc<dyn UsageJournal> {
        self.journal.clone()
    }

    async fn drain(&self, ledger: Arc<dyn UsageLedger>) {
        let stopped = CancellationToken::new();
        stopped.cancel();
        self.drainer.clone().run(ledger, stopped).await;
    }

    async fn keep_draining(&self, ledger: Arc<dyn UsageLedger>) {
        self.drainer.clone().run(ledger, CancellationToken::new()).await;
    }
}

fn serve(journal: &dyn UsageJournal, number: u128) {
    journal.open(&bound(number)).unwrap();
    journal.close(bound(number).request, &[charge(number, 7)]);
}

fn charges(numbers: impl IntoIterator<Item = u128>) -> Vec<UsageEvent> {
    numbers.into_iter().map(|number| charge(number, 7)).collect()
}

async fn drained(running: &Running) -> Vec<UsageEvent> {
    let ledger = Arc::new(RecordingLedger::default());
    running.drain(ledger.clone()).await;
    ledger.events()
}

fn corrupt_files(path: &Path) -> usize {
    let directory = path.parent().unwrap();
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".corrupt")).count()
}

usage_journal_contract!(Place);

mod power_safe {
    use super::*;

    struct PowerSafe(Place);

    impl Harness for PowerSafe {
        fn fresh() -> Self {
            Self(Place::with(SpoolOptions { durability: Durability::PowerSafe, ..OPTIONS }))
        }

        fn with_capacity(capacity: u64) -> Self {
            Self(Place::with(SpoolOptions { durability: Durability::PowerSafe, capacity, ..OPTIONS }))
        }

        fn start(&self) -> Box<dyn Process> {
            self.0.wait_until_released();
            self.0.start()
        }

        fn torn_copies(&self) -> impl Iterator<Item = Self> {
            self.0.torn_copies().map(Self)
        }
    }

    usage_journal_contract!(PowerSafe);
}

/// `cargo test --release -p ai4free-local -- --ignored --nocapture costs` prints what a request costs.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measures real time")]
async fn what_a_request_costs() {
    const REQUESTS: u32 = 100_000;
    let place = Place::with(SpoolOptions { capacity: 1 << 30, ..OPTIONS });
    let running = place.run();
    let (bound, charges) = (bound(1), charges([1]));
    let start = std::time::Instant::now();
    for _ in 0..REQUESTS {
        std::hint::black_box((record::open_frame(&bound), record::close_frame(bound.request, &charges)));
    }
    println!("{:?} to encode an open and a close", start.elapsed() / REQUESTS);
    let start = std::time::Instant::now();
    for _ in 0..REQUESTS {
        running.open(&bound).unwrap();
        running.journal.close(bound.request, &charges);
    }
    println!("{:?} to write them", start.elapsed() / REQUESTS);
}
