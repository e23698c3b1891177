//! Disks that hold a write up.

use std::{
    io,
    sync::{Condvar, Mutex, atomic::AtomicUsize},
    time::Instant,
};

use super::{
    segment::{SegmentFile, Syncable},
    *,
};
use crate::SystemClock;

#[derive(Default)]
struct StallingDisk {
    is_stalled: Mutex<bool>,
    changed: Condvar,
    stuck: AtomicUsize,
}

struct StallingVolume(Arc<StallingDisk>);

struct StallingFile(Box<dyn SegmentFile>, Arc<StallingDisk>);

impl Volume for StallingVolume {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(StallingFile(FileSystem.create(path)?, self.0.clone())))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        FileSystem.sync_directory(path)
    }
}

impl SegmentFile for StallingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.pass();
        self.0.write(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }

    fn syncable(&self) -> Arc<dyn Syncable> {
        self.0.syncable()
    }
}

impl StallingDisk {
    fn stall(&self, is_stalled: bool) {
        *self.is_stalled.lock().unwrap() = is_stalled;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.stuck.fetch_add(1, Ordering::SeqCst);
        drop(self.changed.wait_while(self.is_stalled.lock().unwrap(), |is_stalled| *is_stalled).unwrap());
        self.stuck.fetch_sub(1, Ordering::SeqCst);
    }

    fn wait_until_stuck(&self) {
        while self.stuck.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
}

/// Lets a test that fails end: its threads are waited for.
struct Release<'a>(&'a StallingDisk);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.stall(false);
    }
}

#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

#[tokio::test]
async fn nobody_queues_behind_a_stalled_disk_and_nothing_is_lost() {
    let disk = Arc::new(StallingDisk::default());
    let place = Place { volume: Arc::new(StallingVolume(disk.clone())), ..Place::fresh() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ids = UuidV7Ids::new(clock.clone(), Arc::new(OsSecrets));
    let (journal, drainer) =
        SpoolJournal::open_on(&place.volume, &place.data.path().join("spool"), OPTIONS, &clock, &ids).unwrap();
    journal.open(&bound(0)).unwrap();
    disk.stall(true);
    let release = Release(&disk);
    let stuck = tokio::task::spawn_blocking({
        let journal = journal.clone();
        move || journal.open(&bound(1))
    });
    disk.wait_until_stuck();

    let refused = journal.open(&bound(2));
    assert!(matches!(refused, Err(JournalError::Busy)), "{refused:?}");
    // This thread is the only one that the runtime has: it is free while the journal is waited for.
    let (waited, ()) = tokio::join!(journal.ready(), journal.written());
    assert!(
        matches!(waited, Err(JournalError::Io(_))),
        "{waited:?}: whoever has waited long enough knows of the stall"
    );

    let (_, waited) = timed(|| {
        for number in 3..100 {
            assert!(matches!(journal.open(&bound(number)), Err(JournalError::Io(_))));
        }
        journal.checkpoint(&Checkpoint {
            request: bound(0).request,
            usage: bound(0).usage,
            source: UsageSource::Counted,
            cost: PicoUsd(5),
        });
        journal.close(bound(0).request, &charges([0]));
    });
    assert!(waited < Duration::from_secs(4), "{waited:?} although it is known that the disk is stalled");
    journal.written().await;
    let figures = journal.figures();
    assert!(figures.is_refusing && figures.unwritten_closes == 1, "{figures:?}");

    drop(release);
    stuck.await.unwrap().unwrap();
    journal.written().await;
    opened(&*journal, &bound(101)).unwrap();
    let figures = journal.figures();
    assert!(!figures.is_refusing && figures.unwritten_closes == 0, "{figures:?}");
    let times = journal.write_times();
    let slow = times.bounds.iter().zip(times.counts).filter(|(bound, _)| **bound > Duration::from_millis(500));
    assert!(slow.map(|(_, count)| count).sum::<u64>() + times.counts[times.bounds.len()] > 0, "{times:?}");
    journal.close(bound(1).request, &charges([1]));
    journal.close(bound(101).request, &charges([101]));
    let running = Running { journal, drainer };
    assert_eq!(drained(&running).await, charges([0, 1, 101]));
    drop(running);
    assert_eq!(drained(&place.run()).await, charges([0, 1, 101]));
}

#[tokio::test]
async fn whoever_waits_for_one_that_is_only_slow_is_not_refused() {
    let disk = Arc::new(StallingDisk::default());
    let place = Place { volume: Arc::new(StallingVolume(disk.clone())), ..Place::fresh() };
    let Running { journal, .. } = place.run();
    for number in 0..3 {
        disk.stall(true);
        let release = Release(&disk);
        let slow = tokio::task::spawn_blocking({
            let journal = journal.clone();
            move || opened(&*journal, &bound(2 * number))
        });
        disk.wait_until_stuck();
        let mut waiting = Box::pin(journal.ready());
        let in_vain = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(in_vain.is_err(), "{in_vain:?}");
        drop(release);
        waiting.await.unwrap();
        slow.await.unwrap().unwrap();
        opened(&*journal, &bound(2 * number + 1)).unwrap();
    }
}

#[tokio::test]
async fn a_close_that_could_not_wait_is_written_without_another_request() {
    let disk = Arc::new(StallingDisk::default());
    let place = Place { volume: Arc::new(StallingVolume(disk.clone())), ..Place::fresh() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ids = UuidV7Ids::new(clock.clone(), Arc::new(OsSecrets));
    let (journal, drainer) =
        SpoolJournal::open_on(&place.volume, &place.data.path().join("spool"), OPTIONS, &clock, &ids).unwrap();
    (0..2).for_each(|number| journal.open(&bound(number)).unwrap());
    disk.stall(true);
    std::thread::scope(|scope| {
        let _release = Release(&disk);
        let stuck = scope.spawn(|| journal.close(bound(1).request, &charges([1])));
        disk.wait_until_stuck();
        journal.close(bound(0).request, &charges([0]));
        disk.stall(false);
        stuck.join().unwrap();
    });
    assert_eq!(drained(&Running { journal, drainer }).await, charges([1, 0]));
}
