//! Machines that lose their power: what was not synced is gone.

use std::{
    collections::HashMap,
    io,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use ai4free_ports::request::RequestId;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    segment::{SegmentFile, Syncable},
    *,
};

const POWER_SAFE: SpoolOptions = SpoolOptions { durability: Durability::PowerSafe, ..OPTIONS };

/// Knows what would be left of each file.
#[derive(Default)]
struct Disk {
    synced: Mutex<HashMap<PathBuf, u64>>,
    syncs: AtomicUsize,
    fails: AtomicBool,
    is_held_up: Mutex<bool>,
    released: Condvar,
    begun: Notify,
    done: Notify,
}

struct SyncedVolume(Arc<Disk>);

struct SyncedFile {
    file: Box<dyn SegmentFile>,
    path: PathBuf,
    disk: Arc<Disk>,
}

struct SyncedHandle {
    path: PathBuf,
    disk: Arc<Disk>,
}

impl Volume for SyncedVolume {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = FileSystem.create(path)?;
        Ok(Box::new(SyncedFile { file, path: path.to_owned(), disk: self.0.clone() }))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        FileSystem.sync_directory(path)
    }
}

impl SegmentFile for SyncedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }

    fn syncable(&self) -> Arc<dyn Syncable> {
        Arc::new(SyncedHandle { path: self.path.clone(), disk: self.disk.clone() })
    }
}

impl Syncable for SyncedHandle {
    fn sync(&self) -> io::Result<()> {
        let length = fs::metadata(&self.path)?.len();
        self.disk.syncs.fetch_add(1, Ordering::SeqCst);
        self.disk.begun.notify_one();
        let is_held_up = self.disk.is_held_up.lock().unwrap();
        drop(self.disk.released.wait_while(is_held_up, |is_held_up| *is_held_up).unwrap());
        if self.disk.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("failed on purpose"));
        }
        self.disk.synced.lock().unwrap().insert(self.path.clone(), length);
        self.disk.done.notify_one();
        Ok(())
    }
}

impl Disk {
    fn syncs(&self) -> usize {
        self.syncs.load(Ordering::SeqCst)
    }

    fn hold_up(&self, is_held_up: bool) {
        *self.is_held_up.lock().unwrap() = is_held_up;
        self.released.notify_all();
    }

    fn lose_power(&self, place: &Place) {
        let synced = self.synced.lock().unwrap();
        for segment in place.segments() {
            let length = synced.get(&segment).copied().unwrap_or(0);
            fs::File::options().write(true).open(segment).unwrap().set_len(length).unwrap();
        }
    }
}

fn on_synced_disk(options: SpoolOptions) -> (Place, Arc<Disk>) {
    let disk = Arc::new(Disk::default());
    let place = Place { volume: Arc::new(SyncedVolume(disk.clone())), ..Place::with(options) };
    (place, disk)
}

fn requests(events: &[UsageEvent]) -> Vec<RequestId> {
    events.iter().map(|event| event.request).collect()
}

#[tokio::test]
async fn a_process_safe_journal_never_waits_for_the_disk() {
    let (place, disk) = on_synced_disk(OPTIONS);
    let running = place.run();
    serve(&*running.journal, 1);
    running.open(&bound(2)).unwrap();
    running.journal.durable(bound(2).request).await.unwrap();
    drained(&running).await;
    assert_eq!(disk.syncs(), 0);
}

#[tokio::test]
async fn what_is_durable_survives_the_loss_of_power_and_what_is_not_may_be_gone() {
    let (place, disk) = on_synced_disk(POWER_SAFE);
    let running = place.run();
    running.open(&bound(1)).unwrap();
    running.journal.durable(bound(1).request).await.unwrap();
    running.open(&bound(2)).unwrap();
    drop(running);
    disk.lose_power(&place);
    let found = drained(&place.run()).await;
    assert_eq!((requests(&found), found[0].usage_source), (vec![bound(1).request], UsageSource::Bound));
}

#[tokio::test]
async fn one_sync_serves_all_who_wait() {
    let (place, disk) = on_synced_disk(POWER_SAFE);
    let running = place.run();
    let mut waiting = JoinSet::new();
    let mut wait_for = |number| {
        let journal = running.journal.clone();
        journal.open(&bound(number)).unwrap();
        waiting.spawn(async move { journal.durable(bound(number).request).await });
    };
    disk.hold_up(true);
    wait_for(1);
    disk.begun.notified().await;
    (2..=100).for_each(&mut wait_for);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.syncs(), 1, "one at a time");
    disk.hold_up(false);
    for result in waiting.join_all().await {
        result.unwrap();
    }
    assert_eq!(disk.syncs(), 2);
    disk.lose_power(&place);
    drop(running);
    assert_eq!(drained(&place.run()).await.len(), 100);
}

/// The kernel reports a failed sync once, and may forget the pages: a later sync that works says nothing about them.
#[tokio::test]
async fn a_failed_sync_refuses_those_who_waited_for_it_for_good_and_nobody_else() {
    let (place, disk) = on_synced_disk(POWER_SAFE);
    let running = place.run();
    disk.fails.store(true, Ordering::SeqCst);
    for number in [1, 2] {
        running.open(&bound(number)).unwrap();
    }
    assert!(running.journal.durable(bound(1).request).await.is_err());
    disk.fails.store(false, Ordering::SeqCst);
    running.open(&bound(3)).unwrap();
    running.journal.durable(bound(3).request).await.unwrap();
    for number in [1, 2] {
        assert!(running.journal.durable(bound(number).request).await.is_err(), "{number}");
        running.journal.close(bound(number).request, &[]);
    }
    assert_eq!(place.segments().len(), 2, "no more is written to the file that failed");
    running.journal.close(bound(3).request, &charges([3]));
    drained(&running).await;
    drop(running);
    disk.lose_power(&place);
    assert_eq!(drained(&place.run()).await, charges([3]));
}

#[tokio::test]
async fn who_leaves_while_a_sync_runs_does_not_let_another_pass_before_it_has_ended() {
    let (place, disk) = on_synced_disk(POWER_SAFE);
    let running = place.run();
    running.open(&bound(1)).unwrap();
    disk.hold_up(true);
    tokio::select! {
        _ = running.journal.durable(bound(1).request) => panic!("the sync has not ended"),
        () = disk.begun.notified() => {}
    }
    let second = tokio::time::timeout(Duration::from_millis(20), running.journal.durable(bound(1).request)).await;
    assert!(second.is_err(), "the first sync has not ended");
    disk.hold_up(false);
    running.journal.durable(bound(1).request).await.unwrap();
    assert_eq!(disk.syncs(), 1);
}

#[tokio::test]
async fn closes_are_synced_behind_the_requests() {
    let (place, disk) = on_synced_disk(POWER_SAFE);
    let running = place.run();
    let ledger = Arc::new(RecordingLedger::default());
    running.open(&bound(1)).unwrap();
    running.journal.durable(bound(1).request).await.unwrap();
    disk.done.notified().await;
    tokio::select! {
        () = running.keep_draining(ledger.clone()) => panic!("the drainer ended"),
        () = async {
            running.journal.close(bound(1).request, &charges([1]));
            disk.done.notified().await;
        } => {}
    }
    drop(running);
    place.wait_until_released();
    disk.lose_power(&place);
    assert_eq!(drained(&place.run()).await, charges([1]));
}

#[tokio::test]
async fn closes_are_synced_at_the_end_even_if_the_ledger_is_away() {
    let (place, disk) = on_synced_disk(POWER_SAFE);
    let running = place.run();
    let ledger = Arc::new(RecordingLedger::default());
    serve(&*running.journal, 1);
    ledger.fail([ai4free_contract::recording::Fault::HangBeforeCommit]);
    tokio::select! {
        () = running.drain(ledger.clone()) => panic!("the ledger does not answer"),
        () = disk.done.notified() => {}
    }
    drop(running);
    place.wait_until_released();
    disk.lose_power(&place);
    assert_eq!(drained(&place.run()).await, charges([1]));
}

#[tokio::test]
async fn no_segment_is_deleted_before_what_was_copied_from_it_is_safe() {
    let (place, disk) = on_synced_disk(SpoolOptions { segment_bytes: 2048, ..POWER_SAFE });
    let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
    running.open(&bound(1_000_001)).unwrap();
    running.journal.durable(bound(1_000_001).request).await.unwrap();
    let first = place.segments()[0].clone();
    for round in 0..3 {
        (0..20).for_each(|number| serve(&*running.journal, round * 100 + number));
        running.drain(ledger.clone()).await;
    }
    place.clock.advance(601);
    disk.fails.store(true, Ordering::SeqCst);
    running.drain(ledger.clone()).await;
    assert!(first.exists(), "its copies could not be made safe");
    disk.fails.store(false, Ordering::SeqCst);
    running.drain(ledger.clone()).await;
    assert!(!first.exists());
    drop(running);
    disk.lose_power(&place);
    place.run().drain(ledger.clone()).await;
    assert_eq!(ledger.events().last().unwrap().request, bound(1_000_001).request);
}
