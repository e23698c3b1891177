//! Round after round, everything once in each: so that a machine that is slower for a while is slower for all.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::ensure;

use crate::{
    arguments::{Options, Role},
    machine::busy_cores,
    report::{Sheet, markdown, write_between_markers},
    rig::current_binary,
    rows::{ROWS, Row, SOAK, Stage, When},
};

pub(crate) fn run(options: &Options, role: Option<&Role>) -> anyhow::Result<()> {
    let mut rows = chosen(options, role)?;
    let binary = options.binary.clone().map_or_else(current_binary, Ok)?;
    let busy = busy_cores(Duration::from_secs(1));
    eprintln!("{busy:.1} cores are busy with other work");
    let mut stage = Stage::new(binary, options.seconds(role), soak(role), options.wait_idle())?;
    let mut sheet = Sheet::default();
    sheet.aside("cores busy with other work, at the start", busy);
    let rounds = options.rounds(role);
    for round in 1..=rounds {
        for (name, row) in &mut rows {
            // It lasts as long as it is told to; once is enough.
            if *name == "soak" && round > 1 {
                continue;
            }
            eprintln!("round {round} of {rounds}: {name}");
            // Such as a Redis that the machine let answer too late: the others are worth measuring all the same.
            if let Err(error) = row.measure(&mut stage, &mut sheet) {
                sheet.skip(&format!("{name} in round {round}: {error}"));
            }
        }
    }
    let table = markdown(&sheet);
    println!("{table}");
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", sheet.to_json()))?;
    }
    options.write.as_deref().map_or(Ok(()), |path: &Path| write_between_markers(path, &table))
}

fn chosen(options: &Options, role: Option<&Role>) -> anyhow::Result<Vec<(&'static str, Box<dyn Row>)>> {
    let known: BTreeSet<&str> = ROWS.iter().map(|(name, _, _)| *name).collect();
    for name in &options.only {
        ensure!(known.contains(name.as_str()), "there is no row {name}; there are {known:?}");
    }
    let verb = match role {
        Some(Role::Keys) => Some("keys"),
        Some(Role::Models) => Some("models"),
        Some(Role::Ledger) => Some("ledger"),
        Some(Role::IdleStreams) => Some("idle-streams"),
        Some(Role::Soak(_)) => Some("soak"),
        _ => None,
    };
    let is_chosen = |name: &str, when: When| match (verb, options.only.as_slice()) {
        (Some(verb), _) => name == verb,
        (None, []) => when == When::Always || matches!(role, Some(Role::Full(_))),
        (None, only) => only.iter().any(|wanted| wanted == name),
    };
    let rows = ROWS.iter().filter(|(name, when, _)| is_chosen(name, *when));
    Ok(rows.map(|(name, _, begin)| (*name, begin())).collect())
}

fn soak(role: Option<&Role>) -> Duration {
    match role {
        Some(Role::Soak(soak) | Role::Full(soak)) => Duration::from_secs(soak.minutes * 60),
        _ => SOAK,
    }
}
