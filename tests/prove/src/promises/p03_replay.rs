//! Journals that were drained already are brought back, cut, and drained again, any number of times.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::FutureExt;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order},
    oracle::Reconciliation,
    rig::{chaos::Mode, dice::Dice},
};

pub(super) const PROMISE: Promise = Promise {
    id: "P3",
    title: "a usage journal that is replayed, in whole or in part and however often, changes nothing",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: usize = 8;
const REQUESTS: usize = 12;

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (rounds, dice) = (stage.count(3, 12), stage.dice());
    let mut rig = stage.services.rig().start().await;
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Lane::new(rig.gateways[0].key(json!({})).await, rig.gateways[0].address));
    }
    load::warm(&mut lanes).await;
    let (mut replays, mut cuts) = (0, 0);
    for round in 0..rounds {
        let mut fate = dice.split(1_000_000 + round);
        let wanted = (REQUESTS + 1) * usize::try_from(round + 1).unwrap();
        for lane in &mut lanes {
            lane.aim(rig.gateways[0].address);
            // A gateway that has just started knows no key.
            lane.send(Order::mixed(&mut fate)).await;
        }
        // Half of the time the ledger is away, so that the journal is full of what it does not have.
        let away = fate.percent(50);
        if away {
            rig.to_postgres.set(Mode::Refuse);
        }
        let next = move |dice: &mut Dice, lane: &mut Lane| (lane.journal.len() < wanted).then(|| Order::mixed(dice));
        lanes = load::drive(lanes, &dice.split(round), next).await;
        let copy = copied(&rig.gateways[0].spool());
        if away {
            rig.to_postgres.set(Mode::Pass);
        }
        // It dies somewhere in the middle of the drain: before, within or after a commit.
        sleep(Duration::from_millis(fate.within(0..60))).await;
        rig.gateways[0].process.kill().await;
        for _ in 0..fate.within(1..4) {
            // What it had before, as if the deletion of what was drained, or the end of a drain, had never happened.
            restore(copy.path(), &rig.gateways[0].spool());
            rig.gateways[0].start_again().await;
            replays += 1;
            if fate.percent(50) {
                sleep(Duration::from_millis(fate.within(0..80))).await;
            } else {
                rig.ledger().await;
            }
            rig.gateways[0].process.kill().await;
        }
        // The rest arrives before a journal is cut: what only the cut part knew would be gone.
        rig.gateways[0].start_again().await;
        rig.ledger().await;
        rig.gateways[0].process.kill().await;
        cuts += cut_last_segment(&rig.gateways[0].spool(), &mut fate);
        rig.gateways[0].start_again().await;
    }
    findings.figure("rounds", rounds);
    findings.figure("replays", replays);
    findings.figure("cuts", cuts);
    let events = rig.ledger().await;
    let journal = load::journal(&lanes);
    let failed = journal.iter().filter(|sent| !sent.complete).count();
    findings.exactly("failed_requests", 0, failed as i128);
    let reconciliation = Reconciliation::of(journal, &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(&mut findings);
    reconciliation.complete_ones_are_exact(&mut findings);
    rig.check_ledger(&mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

fn copied(directory: &Path) -> TempDir {
    let copy = tempfile::Builder::new().prefix("ai4free-prove-spool.").tempdir_in("/tmp").unwrap();
    copy_into(directory, copy.path());
    copy
}

/// Files of the copy over those of the same name; others stay.
fn restore(copy: &Path, directory: &Path) {
    copy_into(copy, directory);
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// As many bytes as happen; returns how many segments were cut.
fn cut_last_segment(spool: &Path, fate: &mut Dice) -> u64 {
    let mut segments: Vec<PathBuf> = segments_in(spool);
    segments.sort();
    let Some(last) = segments.pop() else { return 0 };
    let length = fs::metadata(&last).unwrap().len();
    if length == 0 {
        return 0;
    }
    let file = fs::OpenOptions::new().write(true).open(&last).unwrap();
    file.set_len(length - fate.within(1..length.min(2_000) + 1)).unwrap();
    1
}

fn segments_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let found = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => segments_in(&entry.path()),
        false => vec![entry.path()],
    });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}
