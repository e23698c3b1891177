//! The life of segments and directories.

use ai4free_contract::recording::Fault;

use super::*;

pub(super) fn small_segments() -> Place {
    Place::with(SpoolOptions { segment_bytes: 2048, ..OPTIONS })
}

#[tokio::test]
async fn two_processes_never_share_a_directory() {
    let place = Place::fresh();
    let (first, second) = (place.run(), place.run());
    serve(&*first.journal, 1);
    serve(&*second.journal, 2);
    assert_eq!(place.segments().len(), 2);
    assert_eq!(drained(&first).await, charges([1]));
    assert_eq!(drained(&second).await, charges([2]));
}

#[tokio::test]
async fn the_directory_of_a_dead_sibling_is_drained_once_and_then_deleted() {
    let place = Place::fresh();
    let (first, second) = (place.run(), place.run());
    serve(&*first.journal, 1);
    second.open(&bound(2)).unwrap();
    drop((first, second));
    let ledger = Arc::new(RecordingLedger::default());
    let heir = place.run();
    heir.drain(ledger.clone()).await;
    let mut requests: Vec<_> = ledger.events().iter().map(|event| event.request).collect();
    requests.sort_unstable();
    assert_eq!(requests, [bound(1).request, bound(2).request]);
    assert_eq!(fs::read_dir(place.data.path().join("spool")).unwrap().count(), 2);
    place.clock.advance(601);
    heir.drain(ledger.clone()).await;
    assert_eq!(fs::read_dir(place.data.path().join("spool")).unwrap().count(), 1);
    assert_eq!(ledger.events().len(), 2);
}

#[tokio::test]
async fn segments_are_kept_for_a_while_after_the_ledger_has_them() {
    let place = small_segments();
    let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
    (0..40).for_each(|number| serve(&*running.journal, number));
    place.clock.advance(3600);
    running.drain(ledger.clone()).await;
    let kept = place.segments().len();
    assert!(kept > 3, "{kept} segments");
    place.clock.advance(599);
    running.drain(ledger.clone()).await;
    assert_eq!(place.segments().len(), kept);
    place.clock.advance(1);
    running.drain(ledger.clone()).await;
    assert_eq!(place.segments().len(), 1);
    assert!(running.journal.figures().bytes <= 2048);
}

/// Once each, and not before: also where an append failed after it had been committed.
#[tokio::test]
async fn who_wants_to_know_is_told_what_the_ledger_has() {
    let place = Place::fresh();
    let Running { journal, drainer } = place.run();
    let (told, ledger) = (Arc::<std::sync::Mutex<Vec<_>>>::default(), Arc::new(RecordingLedger::default()));
    let drainer = drainer.telling({
        let (told, ledger) = (told.clone(), ledger.clone());
        move |events| {
            assert!(events.iter().all(|event| ledger.events().contains(event)), "not before");
            told.lock().unwrap().extend_from_slice(events);
        }
    });
    let running = Running { journal, drainer };
    ledger.fail([Fault::BeforeCommit, Fault::None, Fault::AfterCommit]);
    for number in 1..=3 {
        serve(&*running.journal, number);
        running.drain(ledger.clone()).await;
    }
    assert_eq!(*told.lock().unwrap(), charges([1, 2, 3]));
}

#[tokio::test]
async fn drained_segments_go_at_once_when_the_journal_is_half_full() {
    let place = Place::with(SpoolOptions { segment_bytes: 2048, capacity: 40_000, ..OPTIONS });
    let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
    for round in 0..20 {
        (0..20).for_each(|number| serve(&*running.journal, round * 100 + number));
        running.drain(ledger.clone()).await;
    }
    assert_eq!(ledger.events().len(), 400);
    assert!(running.journal.figures().bytes <= 22_000);
}

#[tokio::test]
async fn a_long_request_survives_the_segment_that_it_was_opened_in() {
    let place = small_segments();
    let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
    running.open(&bound(1_000_001)).unwrap();
    running.open(&bound(1_000_002)).unwrap();
    running.journal.checkpoint(&Checkpoint {
        request: bound(1_000_002).request,
        usage: bound(1_000_002).usage,
        source: UsageSource::Counted,
        cost: PicoUsd(55),
    });
    let first = place.segments()[0].clone();
    for round in 0..3 {
        (0..40).for_each(|number| serve(&*running.journal, round * 100 + number));
        running.drain(ledger.clone()).await;
        place.clock.advance(601);
        running.drain(ledger.clone()).await;
    }
    assert!(!first.exists());
    assert!(place.segments().len() <= 2);
    drop(running);
    let heir = place.run();
    heir.drain(ledger.clone()).await;
    let last = &ledger.events()[120..];
    assert_eq!(
        last.iter().map(|event| event.request).collect::<Vec<_>>(),
        [bound(1_000_001).request, bound(1_000_002).request]
    );
    assert_eq!(
        last.iter().map(|event| event.usage_source).collect::<Vec<_>>(),
        [UsageSource::Bound, UsageSource::Estimated]
    );
    assert_eq!(last.iter().map(|event| event.cost).collect::<Vec<_>>(), [bound(0).cost, PicoUsd(55)]);
}

#[tokio::test]
async fn what_is_no_longer_in_memory_is_read_from_the_segments() {
    let place = Place::with(SpoolOptions { segment_bytes: 1 << 20, capacity: 64 << 20, ..OPTIONS });
    let running = place.run();
    (0..12_000).for_each(|number| serve(&*running.journal, number));
    assert_eq!(running.journal.figures().undrained_events, 12_000);
    let found = drained(&running).await;
    assert!(found == charges(0..12_000), "{} events", found.len());
    assert_eq!(running.journal.figures().undrained_events, 0);
}

/// Cuts the last two requests off, and a byte more, as a machine that lost its power might have: the ledger has events that
/// the disk has not.
fn lose_two_requests(place: &Place) {
    let segment = place.segments().pop().unwrap();
    let request = record::open_frame(&bound(5)).len() + record::close_frame(bound(5).request, &charges([5])).len();
    let length = fs::metadata(&segment).unwrap().len() - u64::try_from(2 * request + 1).unwrap();
    fs::File::options().write(true).open(segment).unwrap().set_len(length).unwrap();
}

#[tokio::test]
async fn events_after_a_lost_tail_are_not_taken_for_those_that_were_lost() {
    for processes_without_ledger in 0..3 {
        let place = Place::fresh();
        let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
        (1..=5).for_each(|number| serve(&*running.journal, number));
        running.drain(ledger.clone()).await;
        drop(running);
        lose_two_requests(&place);
        let mut expected = 5;
        for _ in 0..processes_without_ledger {
            let running = place.run();
            for _ in 0..4 {
                expected += 1;
                serve(&*running.journal, expected);
            }
        }
        let running = place.run();
        serve(&*running.journal, expected + 1);
        running.drain(ledger.clone()).await;
        assert_eq!(ledger.events(), charges(1..=expected + 1), "{processes_without_ledger}");
        drop(running);
        let running = place.run();
        serve(&*running.journal, expected + 2);
        running.drain(ledger.clone()).await;
        assert_eq!(ledger.events(), charges(1..=expected + 2));
    }
}

#[tokio::test]
async fn damage_is_set_aside_and_what_is_good_before_and_after_it_is_drained() {
    let place = small_segments();
    let running = place.run();
    (0..40).for_each(|number| serve(&*running.journal, number));
    drop(running);
    let damaged = place.segments()[1].clone();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[1000] ^= 0x40;
    fs::write(&damaged, bytes).unwrap();
    let found = drained(&place.run()).await;
    let exact = found.iter().filter(|event| event.outcome == ai4free_ports::usage_ledger::Outcome::Success).count();
    assert!((30..40).contains(&exact), "{exact} exact charges");
    assert_eq!(corrupt_files(&damaged), 1);
}

#[tokio::test]
async fn no_changed_byte_makes_a_start_panic_or_a_charge_double() {
    let place = Place::fresh();
    let running = place.run();
    (0..3).for_each(|number| serve(&*running.journal, number));
    drop(running);
    let [segment] = <[PathBuf; 1]>::try_from(place.segments()).unwrap();
    let good = fs::read(&segment).unwrap();
    let last_record = record::close_frame(bound(2).request, &charges([2])).len();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(&segment, bytes).unwrap();
        let found = drained(&place.run()).await;
        let requests: std::collections::BTreeSet<_> = found.iter().map(|event| event.request).collect();
        assert_eq!(requests.len(), found.len(), "byte {at}");
        let is_before_last_record = at < good.len() - last_record;
        assert!(corrupt_files(&segment) == 1 || !is_before_last_record, "byte {at}: nothing was kept aside");
        for path in fs::read_dir(segment.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()) {
            if path.to_str().unwrap().contains("seg") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn who_was_fenced_stops_draining_and_opens_nothing_more() {
    let place = Place::fresh();
    let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
    serve(&*running.journal, 1);
    let spool: uuid::Uuid =
        place.segments()[0].parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let thief = async {
        while ledger.events().is_empty() {
            tokio::task::yield_now().await;
        }
        ledger.attach(SpoolId(spool)).await.unwrap();
        serve(&*running.journal, 2);
        assert!(!running.journal.flush(Duration::from_secs(10)).await);
    };
    tokio::select! {
        () = running.keep_draining(ledger.clone()) => panic!("the drainer ended"),
        () = thief => {}
    }
    assert_eq!(ledger.events(), charges([1]));
    assert!(running.journal.figures().is_fenced);
    assert!(running.open(&bound(3)).is_err());
}

#[tokio::test]
async fn a_journal_starts_on_a_full_disk_and_charges_what_was_lost_when_there_is_room() {
    let (place, disk) = super::faults::on_bad_disk();
    let running = place.run();
    running.open(&bound(1)).unwrap();
    drop(running);
    disk.set_full(true);
    drop(place.run());
    let running = place.run();
    assert!(matches!(running.open(&bound(2)), Err(JournalError::Full)));
    disk.set_full(false);
    serve(&*running.journal, 3);
    let found = drained(&running).await;
    assert_eq!(found.iter().map(|event| event.request).collect::<Vec<_>>(), [bound(1).request, bound(3).request]);
}
