//! Replicas on one volume that die while others run.

use ai4free_contract::recording::{ClosedHolders, Fault};
use ai4free_ports::budget::Holder;

use super::{faults::Trouble, *};

fn spool_of(segment: &Path) -> SpoolId {
    SpoolId(segment.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap())
}

fn directories(place: &Place) -> usize {
    fs::read_dir(place.data.path().join("spool")).unwrap().count()
}

/// Drains until something is so; time passes quickly.
async fn drain_until(running: &Running, place: &Place, ledger: &Arc<RecordingLedger>, is_so: impl Fn() -> bool) {
    let arrived = async {
        while !is_so() {
            place.clock.advance(31);
            running.journal.flush(Duration::from_secs(10)).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = running.keep_draining(ledger.clone()) => panic!("the drainer ended"),
        () = arrived => {}
    }
}

#[tokio::test]
async fn a_sibling_that_dies_while_we_run_is_drained_and_its_directory_deleted() {
    let place = Place::fresh();
    let (first, second) = (place.run(), place.run());
    let ledger = Arc::new(RecordingLedger::default());
    serve(&*second.journal, 1);
    second.open(&bound(2)).unwrap();
    drop(second);
    drain_until(&first, &place, &ledger, || ledger.events().len() == 2).await;
    assert_eq!(ledger.events()[0], charge(1, 7));
    assert_eq!((ledger.events()[1].request, ledger.events()[1].usage_source), (bound(2).request, UsageSource::Bound));
    serve(&*first.journal, 3);
    place.clock.advance(601);
    first.drain(ledger.clone()).await;
    assert_eq!(directories(&place), 1);
    assert_eq!(ledger.events().len(), 3);
    assert_eq!(first.journal.figures().undrained_events, 0);
}

#[tokio::test]
async fn a_sibling_that_lives_is_left_alone() {
    let place = Place::fresh();
    let (first, second) = (place.run(), place.run());
    let ledger = Arc::new(RecordingLedger::default());
    second.open(&bound(1)).unwrap();
    for number in 2..5 {
        serve(&*first.journal, number);
        drain_until(&first, &place, &ledger, || ledger.events().len() as u128 == number - 1).await;
    }
    second.journal.close(bound(1).request, &charges([1]));
    assert_eq!(drained(&second).await, charges([1]));
    assert_eq!(ledger.events(), charges(2..5));
}

#[tokio::test]
async fn a_directory_that_is_empty_is_adopted_and_deleted() {
    let place = Place::fresh();
    let running = place.run();
    let abandoned = place.data.path().join("spool").join("01890000-0000-7000-8000-000000000000");
    fs::create_dir(&abandoned).unwrap();
    let ledger = Arc::new(RecordingLedger::default());
    drain_until(&running, &place, &ledger, || !abandoned.exists()).await;
}

#[tokio::test]
async fn the_process_knows_as_whom_it_is_granted_money_once_the_ledger_has_said_it() {
    let place = Place::fresh();
    let ledger = Arc::new(RecordingLedger::default());
    for generation in 1..=3 {
        let running = place.run();
        assert_eq!(running.journal.holder().get(), None);
        serve(&*running.journal, u128::try_from(generation).unwrap());
        running.drain(ledger.clone()).await;
        let spool = spool_of(&place.segments()[0]);
        assert_eq!(running.journal.holder().get(), Some(&Holder::Process { spool, generation }));
    }
}

#[tokio::test]
async fn earlier_holders_are_closed_once_and_only_when_the_ledger_has_all_that_they_spent() {
    let place = Place::fresh();
    let ledger = Arc::new(RecordingLedger::default());
    let running = place.run();
    (1..=1100).for_each(|number| serve(&*running.journal, number));
    drop(running);
    let running = place.run();
    ledger.fail([Fault::None, Fault::BeforeCommit, Fault::AfterCommit]);
    for number in 1101..=1103 {
        running.drain(ledger.clone()).await;
        serve(&*running.journal, number);
    }
    let spool = spool_of(&place.segments()[0]);
    assert_eq!(ledger.closed_holders(), [ClosedHolders { spool, generation: 1, events: 1100 }]);
}

#[tokio::test]
async fn holders_are_not_closed_while_a_charge_of_theirs_is_not_written_yet() {
    let (place, disk) = super::faults::on_bad_disk();
    let ledger = Arc::new(RecordingLedger::default());
    let running = place.run();
    running.open(&bound(1)).unwrap();
    drop(running);
    let refused = Trouble::Error(std::io::ErrorKind::StorageFull);
    disk.plan(&[refused; 4]); // in this file, in another, without the ballast, and once more
    let running = place.run();
    running.drain(ledger.clone()).await;
    assert_eq!((ledger.events(), ledger.closed_holders()), (vec![], vec![]));
    running.drain(ledger.clone()).await;
    assert_eq!(ledger.closed_holders().iter().map(|closed| closed.events).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn the_holders_of_a_dead_sibling_are_closed_too() {
    let place = Place::fresh();
    let (first, second) = (place.run(), place.run());
    let ledger = Arc::new(RecordingLedger::default());
    serve(&*second.journal, 1);
    let spools: Vec<_> = place.segments().iter().map(|segment| spool_of(segment)).collect();
    drop(second);
    drain_until(&first, &place, &ledger, || ledger.events().len() == 1).await;
    first.drain(ledger.clone()).await;
    let closed = ledger.closed_holders();
    assert!(closed.iter().any(|closed| spools.contains(&closed.spool) && closed.events == 1), "{closed:?}");
    assert_eq!(closed.len(), 2, "{closed:?}");
}

/// A drainer that attached again would begin a generation, and close the grants that this process spends from.
#[tokio::test]
async fn a_drainer_that_panics_is_run_again_in_the_same_generation() {
    let place = Place::fresh();
    let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
    serve(&*running.journal, 1);
    ledger.fail([Fault::PanicAfterCommit]);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(running.drainer.clone().run(ledger.clone(), CancellationToken::new()));
    assert!(task.join_next().await.unwrap().unwrap_err().is_panic());
    serve(&*running.journal, 2);
    running.drain(ledger.clone()).await;
    assert_eq!(ledger.events(), charges([1, 2]));
    let spool = spool_of(&place.segments()[0]);
    assert_eq!(ledger.closed_holders(), [ClosedHolders { spool, generation: 1, events: 2 }]);
}
