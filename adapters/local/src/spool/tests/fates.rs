use std::{collections::HashMap, time::SystemTime};

use ai4free_ports::{request::RequestId, usage_journal::Fate, usage_ledger::Outcome};
use uuid::Uuid;

use super::{faults::on_bad_disk, life::small_segments, *};

async fn fates(running: &Running, requests: impl IntoIterator<Item = RequestId>) -> HashMap<RequestId, Fate> {
    running.journal.fates(running.journal.spool(), requests.into_iter().collect()).await.unwrap()
}

/// By small numbers, which are no ids that tell the time.
async fn fates_of<const N: usize>(running: &Running, numbers: [u128; N]) -> [Option<Fate>; N] {
    let mut found = fates(running, numbers.map(|number| bound(number).request)).await;
    numbers.map(|number| found.remove(&bound(number).request))
}

fn lost(number: u128) -> UsageEvent {
    UsageEvent { outcome: Outcome::Lost, usage_source: UsageSource::Bound, ..bound(number) }
}

/// An id that was given so long after (or before) now.
#[expect(clippy::disallowed_methods, reason = "how old an id is, is measured on the clock of the machine")]
fn id_at(seconds_from_now: i64) -> RequestId {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let then = now.as_secs().saturating_add_signed(seconds_from_now);
    RequestId(uuid::Builder::from_unix_timestamp_millis(then * 1000, &[7; 10]).into_uuid())
}

#[tokio::test]
async fn the_next_process_knows_what_requests_were_charged_and_which_were_never_sent() {
    let place = Place::with(OPTIONS);
    let dead = place.run();
    serve(&*dead.journal, 1);
    dead.open(&bound(2)).unwrap();
    drop(dead);
    let expected = [vec![charge(1, 7)], vec![lost(2)], vec![]].map(|events| Some(Fate::Charged(events)));
    let heir = place.run();
    assert_eq!(fates_of(&heir, [1, 2, 3]).await, expected);
    drained(&heir).await;
    drop(heir);
    assert_eq!(fates_of(&place.run(), [1, 2, 3]).await, expected, "and the one after it");
}

#[tokio::test]
async fn a_process_that_died_before_it_wrote_anything_has_sent_nothing() {
    let place = Place::with(OPTIONS);
    drop(place.run());
    assert_eq!(fates_of(&place.run(), [1]).await, [Some(Fate::Charged(vec![]))]);
}

#[tokio::test]
async fn what_may_have_been_deleted_is_unknown_and_what_would_still_be_there_is_not() {
    let place = small_segments();
    let (running, ledger) = (place.run(), Arc::new(RecordingLedger::default()));
    for round in 0..2 {
        (0..40).for_each(|number| serve(&*running.journal, round * 100 + number));
        running.drain(ledger.clone()).await;
        place.clock.advance(601);
        running.drain(ledger.clone()).await;
    }
    drop(running);
    if fs::metadata(&place.segments()[0]).unwrap().created().is_err() {
        println!("skipped: this file system does not know when files were made");
        return;
    }
    let heir = place.run();
    assert_eq!(fates_of(&heir, [1]).await, [Some(Fate::Unknown)]);
    let found = fates(&heir, [id_at(-60), id_at(60)]).await;
    assert_eq!(found, HashMap::from([(id_at(-60), Fate::Unknown), (id_at(60), Fate::Charged(vec![]))]));
}

#[tokio::test]
async fn after_damage_what_is_not_found_is_unknown() {
    let place = Place::with(OPTIONS);
    let dead = place.run();
    serve(&*dead.journal, 1);
    let length = fs::metadata(&place.segments()[0]).unwrap().len();
    serve(&*dead.journal, 2);
    serve(&*dead.journal, 3);
    drop(dead);
    let mut bytes = fs::read(&place.segments()[0]).unwrap();
    bytes[usize::try_from(length).unwrap() + 20] ^= 1;
    fs::write(&place.segments()[0], bytes).unwrap();
    let known = Some(Fate::Charged(vec![charge(1, 7)]));
    assert_eq!(fates_of(&place.run(), [1, 2, 4]).await, [known, Some(Fate::Unknown), Some(Fate::Unknown)]);
}

#[tokio::test]
async fn a_charge_that_the_disk_refuses_is_not_told_before_it_is_written() {
    let (place, disk) = on_bad_disk();
    let dead = place.run();
    dead.open(&bound(1)).unwrap();
    drop(dead);
    disk.set_full(true);
    let heir = place.run();
    assert_eq!(heir.journal.figures().unwritten_closes, 1);
    assert_eq!(fates_of(&heir, [1]).await, [None]);
    disk.set_full(false);
    serve(&*heir.journal, 2);
    assert_eq!(fates_of(&heir, [1]).await, [Some(Fate::Charged(vec![lost(1)]))]);
}

#[tokio::test]
async fn the_requests_of_a_sibling_are_known_once_it_is_taken_over() {
    let place = Place::with(OPTIONS);
    let (dead, heir) = (place.run(), place.run());
    let (spool, request) = (dead.journal.spool(), bound(1).request);
    dead.open(&bound(1)).unwrap();
    assert_eq!(heir.journal.spools(), [heir.journal.spool()]);
    assert_eq!(heir.journal.fates(spool, [request].into()).await.unwrap(), HashMap::new());
    drop(dead);
    drop(heir);
    let heir = place.run();
    assert_eq!(heir.journal.spools().len(), 2);
    let found = heir.journal.fates(spool, [request].into()).await.unwrap();
    assert_eq!(found, HashMap::from([(request, Fate::Charged(vec![lost(1)]))]));
    let other = SpoolId(Uuid::from_u128(7));
    assert_eq!(heir.journal.fates(other, [request].into()).await.unwrap(), HashMap::new());
}
