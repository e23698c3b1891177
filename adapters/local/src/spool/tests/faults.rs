//! Disks that fail on purpose.

use std::{
    io::{self, ErrorKind},
    sync::Mutex,
};

use super::{
    segment::{SegmentFile, Syncable},
    *,
};

/// What a disk does at the next writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// Writes nothing.
    Error(ErrorKind),
    /// Writes part of it.
    Short(usize),
    /// Writes part of it, and can't take it back.
    Stuck(usize),
}

/// Fails as it is told, for ever when `is_full`.
#[derive(Default)]
pub(super) struct BadDisk {
    script: Mutex<Vec<Trouble>>,
    is_full: Mutex<bool>,
}

struct BadFile {
    file: Box<dyn SegmentFile>,
    disk: Arc<BadDisk>,
    is_stuck: bool,
}

impl BadDisk {
    /// What the next writes do, the first first.
    pub(super) fn plan(&self, troubles: &[Trouble]) {
        *self.script.lock().unwrap() = troubles.iter().rev().copied().collect();
    }

    pub(super) fn set_full(&self, is_full: bool) {
        *self.is_full.lock().unwrap() = is_full;
    }

    fn next(&self) -> Trouble {
        if *self.is_full.lock().unwrap() {
            return Trouble::Error(ErrorKind::StorageFull);
        }
        self.script.lock().unwrap().pop().unwrap_or(Trouble::None)
    }
}

struct BadVolume(Arc<BadDisk>);

impl Volume for BadVolume {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(BadFile { file: FileSystem.create(path)?, disk: self.0.clone(), is_stuck: false }))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        FileSystem.sync_directory(path)
    }
}

impl SegmentFile for BadFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.disk.next() {
            Trouble::None => self.file.write(bytes),
            Trouble::Error(kind) => Err(kind.into()),
            Trouble::Short(count) => self.file.write(&bytes[..count.min(bytes.len() - 1)]),
            Trouble::Stuck(count) => {
                self.is_stuck = true;
                self.file.write(&bytes[..count.min(bytes.len() - 1)])
            }
        }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        if self.is_stuck { Err(ErrorKind::Other.into()) } else { self.file.truncate(length) }
    }

    fn syncable(&self) -> Arc<dyn Syncable> {
        self.file.syncable()
    }
}

pub(super) fn on_bad_disk() -> (Place, Arc<BadDisk>) {
    let disk = Arc::new(BadDisk::default());
    let place = Place { volume: Arc::new(BadVolume(disk.clone())), ..Place::fresh() };
    (place, disk)
}

fn ballast(place: &Place) -> bool {
    place.segments()[0].with_file_name("ballast").exists()
}

#[tokio::test]
async fn an_open_that_can_not_be_written_is_refused_and_leaves_nothing_behind() {
    for (trouble, is_full) in [
        (Trouble::Error(ErrorKind::StorageFull), true),
        (Trouble::Error(ErrorKind::QuotaExceeded), true),
        (Trouble::Error(ErrorKind::PermissionDenied), false),
    ] {
        let (place, disk) = on_bad_disk();
        let running = place.run();
        serve(&*running.journal, 1);
        disk.plan(&[trouble]);
        let refused = running.open(&bound(2)).unwrap_err();
        assert_eq!(matches!(refused, JournalError::Full), is_full, "{trouble:?}");
        serve(&*running.journal, 3);
        assert_eq!(drained(&running).await, charges([1, 3]), "{trouble:?}");
        drop(running);
        assert_eq!(drained(&place.run()).await, charges([1, 3]), "{trouble:?}");
    }
}

/// `ulimit -f`.
#[tokio::test]
async fn a_file_that_is_too_long_is_followed_by_another_and_a_disk_that_takes_no_file_refuses() {
    let (place, disk) = on_bad_disk();
    let running = place.run();
    serve(&*running.journal, 1);
    disk.plan(&[Trouble::Error(ErrorKind::FileTooLarge)]);
    serve(&*running.journal, 2);
    assert_eq!(place.segments().len(), 2);
    // A few bytes below the limit the record is begun, and so it is each time that it is tried in this file.
    disk.plan(&[Trouble::Short(40)]);
    serve(&*running.journal, 3);
    assert_eq!(place.segments().len(), 3);
    for trouble in [Trouble::Error(ErrorKind::FileTooLarge), Trouble::Short(40)] {
        disk.plan(&[trouble; 2]);
        assert!(matches!(running.open(&bound(4)), Err(JournalError::Full)));
    }
    serve(&*running.journal, 5);
    assert_eq!(drained(&running).await, charges([1, 2, 3, 5]));
}

#[tokio::test]
async fn a_disk_that_refuses_every_write_is_not_littered_with_empty_files() {
    let (place, disk) = on_bad_disk();
    let running = place.run();
    serve(&*running.journal, 1);
    for number in 2..20 {
        disk.plan(&[Trouble::Error(ErrorKind::PermissionDenied), Trouble::Error(ErrorKind::PermissionDenied)]);
        assert!(running.open(&bound(number)).is_err());
        disk.plan(&[Trouble::None, Trouble::Error(ErrorKind::PermissionDenied)]);
        assert!(running.open(&bound(number)).is_err());
    }
    disk.plan(&[]);
    assert!(place.segments().len() <= 2, "{:?}", place.segments());
    serve(&*running.journal, 20);
    assert_eq!(drained(&running).await, charges([1, 20]));
}

/// Nobody sends requests to a process that says that it is not ready.
#[tokio::test]
async fn a_journal_that_refuses_says_so_and_finds_out_by_itself_that_there_is_room() {
    let (place, disk) = on_bad_disk();
    let running = place.run();
    let ledger = Arc::new(RecordingLedger::default());
    serve(&*running.journal, 1);
    running.drain(ledger.clone()).await;
    assert!(!running.journal.figures().is_refusing);
    disk.set_full(true);
    assert!(running.open(&bound(2)).is_err());
    running.drain(ledger.clone()).await;
    assert!(running.journal.figures().is_refusing);
    disk.set_full(false);
    running.drain(ledger.clone()).await;
    assert!(!running.journal.figures().is_refusing);
    drop(running);
    assert_eq!(drained(&place.run()).await, charges([1]), "what it tried the disk with means nothing");
}

#[tokio::test]
async fn a_close_gets_through_a_failing_write_in_another_segment() {
    for trouble in [Trouble::Error(ErrorKind::FileTooLarge), Trouble::Short(10), Trouble::Stuck(10)] {
        let (place, disk) = on_bad_disk();
        let running = place.run();
        running.open(&bound(1)).unwrap();
        disk.plan(&[trouble]);
        running.journal.close(bound(1).request, &charges([1]));
        assert!(ballast(&place));
        assert_eq!(running.journal.figures().refused_closes, 0);
        drop(running);
        assert_eq!(drained(&place.run()).await, charges([1]), "{trouble:?}");
    }
}

#[tokio::test]
async fn a_close_on_a_full_disk_uses_the_ballast() {
    let (place, disk) = on_bad_disk();
    let running = place.run();
    running.open(&bound(1)).unwrap();
    disk.plan(&[Trouble::Error(ErrorKind::StorageFull), Trouble::Error(ErrorKind::StorageFull)]);
    assert!(ballast(&place));
    running.journal.close(bound(1).request, &charges([1]));
    assert!(!ballast(&place));
    assert_eq!(running.journal.figures().unwritten_closes, 0);
    drop(running);
    assert_eq!(drained(&place.run()).await, charges([1]));
}

#[tokio::test]
async fn closes_that_even_the_ballast_does_not_help_wait_in_memory_and_are_counted() {
    let (place, disk) = on_bad_disk();
    let running = place.run();
    (1..=3).for_each(|number| running.open(&bound(number)).unwrap());
    disk.set_full(true);
    (1..=3).for_each(|number| running.journal.close(bound(number).request, &charges([number])));
    let figures = running.journal.figures();
    assert_eq!((figures.refused_closes, figures.unwritten_closes), (3, 3));
    assert!(matches!(running.open(&bound(4)), Err(JournalError::Full)));
    disk.set_full(false);
    serve(&*running.journal, 5);
    assert_eq!(running.journal.figures().unwritten_closes, 0);
    assert_eq!(drained(&running).await, charges([1, 2, 3, 5]));
    assert!(ballast(&place), "made again when there is room");
}

#[tokio::test]
async fn closes_in_memory_that_die_with_the_process_are_charged_as_lost() {
    let (place, disk) = on_bad_disk();
    let running = place.run();
    running.open(&bound(1)).unwrap();
    disk.set_full(true);
    running.journal.close(bound(1).request, &charges([1]));
    drop(running);
    disk.set_full(false);
    let found = drained(&place.run()).await;
    assert_eq!(
        found.iter().map(|event| (event.request, event.cost)).collect::<Vec<_>>(),
        [(bound(1).request, bound(1).cost)]
    );
}

/// Whatever the disk does, each request that was opened is charged once, and exactly unless its process died.
#[tokio::test]
async fn random_trouble_loses_and_doubles_nothing() {
    for seed in 0..200_u64 {
        let mut random = seed;
        let (mut place, disk) = on_bad_disk();
        place.options.segment_bytes = 1500;
        let ledger = Arc::new(RecordingLedger::default());
        let mut opened = Vec::new();
        for process in 0..3_u128 {
            disk.plan(&[]);
            let running = place.run();
            for number in process * 100..process * 100 + 20 {
                let draw = next_random(&mut random);
                let count = usize::try_from(draw >> 8).unwrap() % 200;
                let trouble = match draw % 8 {
                    0 => Trouble::Error(ErrorKind::StorageFull),
                    1 => Trouble::Short(count),
                    2 => Trouble::Stuck(count),
                    _ => Trouble::None,
                };
                disk.plan(&[Trouble::None, trouble][usize::try_from(draw >> 16).unwrap() % 2..]);
                if running.open(&bound(number)).is_ok() {
                    opened.push(number);
                    running.journal.close(bound(number).request, &charges([number]));
                }
                if draw % 16 == 9 {
                    running.drain(ledger.clone()).await;
                }
            }
        }
        disk.plan(&[]);
        place.run().drain(ledger.clone()).await;
        assert_eq!(ledger.events(), charges(opened), "seed {seed}");
    }
}

/// SplitMix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
