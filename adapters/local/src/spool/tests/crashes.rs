//! Deaths at every point, and replays: each request is charged once, and as exactly as the disk and the ledger together know.

use std::collections::BTreeMap;

use ai4free_contract::recording::Fault;
use ai4free_ports::{
    request::RequestId,
    usage_ledger::{Batch, Outcome},
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

/// What was done to one request, in order.
#[derive(Clone, Debug)]
enum Step {
    Open(u128),
    Check(u128, i64),
    Close(u128, Vec<UsageEvent>),
}

/// A life of a process, as the disk and the ledger may remember it.
struct History {
    spool: PathBuf,
    /// Names and bytes.
    segments: Vec<(std::ffi::OsString, Vec<u8>)>,
    /// Each step, and how many bytes there were after it.
    steps: Vec<(Step, usize)>,
    /// All events in the order of their numbers, by request.
    closed: Vec<Vec<UsageEvent>>,
}

fn checkpoint(number: u128, cost: i64) -> Checkpoint {
    Checkpoint {
        request: bound(number).request,
        usage: bound(number).usage,
        source: UsageSource::Counted,
        cost: PicoUsd(cost),
    }
}

fn attempts(number: u128, count: u16) -> Vec<UsageEvent> {
    (1..=count).map(|attempt| UsageEvent { attempt, ..charge(number, i64::from(attempt)) }).collect()
}

fn script() -> Vec<Step> {
    use Step::{Check, Close, Open};
    vec![
        Open(1),
        Open(2),
        Close(1, attempts(1, 1)),
        Check(2, 5),
        Open(3),
        Open(4),
        Close(3, attempts(3, 3)),
        Check(2, 6),
        Close(4, vec![]),
        Open(5),
        Check(5, 9),
        Close(5, attempts(5, 2)),
        Open(6),
        Open(7),
        Close(7, attempts(7, 1)),
        Close(2, attempts(2, 1)),
    ]
}

const CRASHING: SpoolOptions = SpoolOptions { segment_bytes: 900, ballast_bytes: 0, ..OPTIONS };

/// In memory, where there is such a place: what is on it survives the journals that are dropped here all the same.
fn place() -> Place {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    Place { data: tempfile::tempdir_in(directory).unwrap(), ..Place::with(CRASHING) }
}

impl History {
    fn of(script: Vec<Step>) -> Self {
        let place = place();
        let running = place.run();
        let bytes =
            || place.segments().iter().map(|path| usize::try_from(fs::metadata(path).unwrap().len()).unwrap()).sum();
        let mut steps = Vec::new();
        for step in script {
            match &step {
                Step::Open(number) => running.open(&bound(*number)).unwrap(),
                Step::Check(number, cost) => running.journal.checkpoint(&checkpoint(*number, *cost)),
                Step::Close(number, events) => running.journal.close(bound(*number).request, events),
            }
            steps.push((step, bytes()));
        }
        let closed = steps.iter().filter_map(|(step, _)| match step {
            Step::Close(_, events) if !events.is_empty() => Some(events.clone()),
            _ => None,
        });
        Self {
            spool: place.segments()[0].parent().unwrap().strip_prefix(place.data.path()).unwrap().to_owned(),
            segments: place
                .segments()
                .iter()
                .map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap()))
                .collect(),
            closed: closed.collect(),
            steps,
        }
    }

    fn bytes(&self) -> usize {
        self.segments.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Leaves of it what a death after so many bytes leaves.
    fn leave(&self, place: &Place, cut: usize) {
        let directory = place.data.path().join(&self.spool);
        let _absent = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let mut left = cut;
        for (name, bytes) in &self.segments {
            if left > 0 {
                fs::write(directory.join(name), &bytes[..left.min(bytes.len())]).unwrap();
                left = left.saturating_sub(bytes.len());
            }
        }
    }

    /// A ledger that has the events of so many requests.
    async fn ledger_with(&self, requests: usize) -> Arc<RecordingLedger> {
        let ledger = Arc::new(RecordingLedger::default());
        let spool = SpoolId(self.spool.file_name().unwrap().to_str().unwrap().parse().unwrap());
        let generation = ledger.attach(spool).await.unwrap().generation;
        let events: Vec<_> = self.closed.iter().take(requests).flatten().cloned().collect();
        if !events.is_empty() {
            ledger.append(&Batch { spool, generation, from: 0, events }).await.unwrap();
        }
        ledger
    }

    /// What each request has to be charged in the end.
    fn expected(&self, cut: usize, in_ledger: usize) -> BTreeMap<RequestId, Vec<UsageEvent>> {
        let mut expected: BTreeMap<RequestId, Vec<UsageEvent>> = BTreeMap::new();
        for (step, _) in self.steps.iter().filter(|(_, end)| *end <= cut) {
            let lost =
                |number| UsageEvent { outcome: Outcome::Lost, usage_source: UsageSource::Bound, ..bound(number) };
            match step {
                Step::Open(number) => drop(expected.insert(bound(*number).request, vec![lost(*number)])),
                Step::Check(number, cost) => {
                    let Checkpoint { usage, cost, .. } = checkpoint(*number, *cost);
                    let estimated = UsageEvent { usage, cost, usage_source: UsageSource::Estimated, ..lost(*number) };
                    expected.insert(bound(*number).request, vec![estimated]);
                }
                Step::Close(number, events) => drop(expected.insert(bound(*number).request, events.clone())),
            }
        }
        for events in self.closed.iter().take(in_ledger) {
            expected.insert(events[0].request, events.clone());
        }
        expected.retain(|_, events| !events.is_empty());
        expected
    }
}

fn by_request(events: Vec<UsageEvent>) -> BTreeMap<RequestId, Vec<UsageEvent>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        found.entry(event.request).or_default().push(event);
    }
    found
}

/// How a process that replays ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Before it has asked the ledger.
    AtOnce,
    /// Between the commit and what it does then.
    AfterCommit,
    BeforeCommit,
    /// Having drained everything.
    Drained,
}

fn ends() -> impl Strategy<Value = End> {
    prop::sample::select(vec![End::AtOnce, End::AfterCommit, End::BeforeCommit, End::Drained])
}

async fn replay(place: &Place, ledger: &Arc<RecordingLedger>, end: End) {
    let running = place.run();
    let fault = match end {
        End::AtOnce => return,
        End::Drained => return running.drain(ledger.clone()).await,
        End::AfterCommit => Fault::HangAfterCommit,
        End::BeforeCommit => Fault::HangBeforeCommit,
    };
    ledger.fail([fault]);
    let hung = async {
        tokio::select! {
            () = running.drain(ledger.clone()) => ledger.forgive(), // there was nothing to append
            () = ledger.hung() => {}
        }
    };
    hung.await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The disk is cut anywhere, as a loss of power may, so that the ledger may be ahead of it; what replays it dies as well.
#[test]
fn any_cut_and_any_number_of_replays_charge_each_request_once() {
    const CASES: u32 = 7_000;
    let (runtime, history, place) = (runtime(), History::of(script()), place());
    assert!(history.segments.len() >= 3, "{} segments", history.segments.len());
    let cases = (0..=history.bytes(), 0..=history.closed.len(), prop::collection::vec(ends(), 0..3));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let result = TestRunner::new(config).run(&cases, |(cut, in_ledger, replays)| {
        history.leave(&place, cut);
        let found = runtime.block_on(async {
            let ledger = history.ledger_with(in_ledger).await;
            for end in replays {
                replay(&place, &ledger, end).await;
            }
            replay(&place, &ledger, End::Drained).await;
            by_request(ledger.events())
        });
        prop_assert_eq!(found, history.expected(cut, in_ledger));
        Ok(())
    });
    result.unwrap();
}

/// `kill -9` at each byte: the ledger has only what the disk has.
#[test]
fn a_death_at_each_byte_is_replayed_without_a_difference() {
    let (runtime, history, place) = (runtime(), History::of(script()), place());
    for cut in 0..=history.bytes() {
        history.leave(&place, cut);
        let found = runtime.block_on(async {
            let ledger = Arc::new(RecordingLedger::default());
            replay(&place, &ledger, End::AfterCommit).await;
            replay(&place, &ledger, End::Drained).await;
            by_request(ledger.events())
        });
        assert_eq!(found, history.expected(cut, 0), "cut at {cut}");
    }
}

/// After the acknowledgement, while segments are deleted: each may be gone or not.
#[test]
fn a_death_between_acknowledgement_and_deletion_is_replayed_without_a_difference() {
    let (runtime, history, place) = (runtime(), History::of(script()), place());
    let everything = history.bytes();
    for deleted in 0..=history.segments.len() {
        for replays in 0..4 {
            history.leave(&place, everything);
            let found = runtime.block_on(async {
                let ledger = Arc::new(RecordingLedger::default());
                replay(&place, &ledger, End::Drained).await;
                for path in place.segments().iter().take(deleted) {
                    fs::remove_file(path).unwrap();
                }
                for _ in 0..replays {
                    replay(&place, &ledger, End::Drained).await;
                }
                by_request(ledger.events())
            });
            assert_eq!(found, history.expected(everything, 0), "{deleted} segments deleted, {replays} replays");
        }
    }
}
