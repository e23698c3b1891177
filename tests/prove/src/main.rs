//! Proves what `PROMISES.md` promises: real processes, faults made on purpose, and an oracle that compares what the client,
//! the upstream, the ledger and Redis each know.
//!
//! Nothing is sampled and nothing is read from logs: each promise is an equation between sets, or a bound on every single
//! measurement. All randomness comes from one seed, which is printed.

mod budget;
mod findings;
mod load;
mod noise;
mod options;
mod oracle;
mod promises;
mod rig;
mod upstream;

use std::{
    io::Write,
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{join, join_all},
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    findings::Findings,
    options::{Options, Tier},
    promises::{Company, Promise, Stage},
    rig::Services,
};

/// A proof that hangs has failed.
const LONGEST: Duration = Duration::from_secs(20 * 60);

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err((text, code)) => {
            eprint!("{text}");
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate()).unwrap(), signal(SignalKind::interrupt()).unwrap());
    // Whichever ends it: what was started is dropped, and with it killed.
    tokio::select! {
        all_hold = prove_all(&options) => if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        _ = terminated.recv() => ExitCode::from(143),
        _ = interrupted.recv() => ExitCode::from(130),
    }
}

/// First those that measure or load the machine, one after the other; then, at once, those that mostly wait. Those that wait for
/// nothing that is measured begin with the first.
async fn prove_all(options: &Options) -> bool {
    let of = |company: Company| options.promises.iter().copied().filter(move |promise| promise.company == company);
    let first = async {
        let mut all_hold = true;
        let mut services = None;
        for promise in of(Company::None) {
            let services = match &mut services {
                Some(services) => services,
                none => none.insert(Services::start(options.seed).await),
            };
            all_hold &= prove(promise, options, services).await;
        }
        drop(services);
        prove_together(of(Company::Patient).collect(), options).await && all_hold
    };
    let (first, meanwhile) = join(first, prove_together(of(Company::Everybody).collect(), options)).await;
    first && meanwhile
}

/// None of them begins while others still start their servers: that is work.
async fn prove_together(promises: Vec<&Promise>, options: &Options) -> bool {
    let services = join_all(promises.iter().map(|_| Services::start(options.seed))).await;
    let proofs = promises
        .into_iter()
        .zip(services)
        .map(|(promise, mut services)| async move { prove(promise, options, &mut services).await });
    join_all(proofs).await.into_iter().all(|holds| holds)
}

async fn prove(promise: &Promise, options: &Options, services: &mut Services) -> bool {
    let started = Instant::now();
    let stage = Stage { services, tier: options.tier, rounds: options.rounds, seed: options.seed };
    let proof = AssertUnwindSafe(tokio::time::timeout(LONGEST, (promise.prove)(stage))).catch_unwind();
    let findings = match proof.await {
        Ok(Ok(findings)) => findings,
        Ok(Err(_)) => broken("the proof did not come to an end"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            broken(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
        }
    };
    services.heal().await;
    report(promise, options, &findings, started.elapsed());
    findings.passed()
}

/// One line for machines, some for people.
fn report(promise: &Promise, options: &Options, findings: &Findings, took: Duration) {
    let seconds = f64::from(u32::try_from(took.as_millis()).unwrap_or(u32::MAX)) / 1000.0;
    let line = json!({
        "promise": promise.id,
        "title": promise.title,
        "passed": findings.passed(),
        "figures": findings.figures(),
        "violations": findings.violations(),
        "tier": if options.tier == Tier::Short { 1 } else { 2 },
        "seconds": seconds,
        "seed": options.seed,
    });
    println!("{line}");
    let _ = std::io::stdout().flush();
    let verdict = if findings.passed() { "holds " } else { "BROKEN" };
    eprintln!("{verdict} {:4} {seconds:6.1} s  {}", promise.id, promise.title);
    for violation in findings.violations()["first"].as_array().into_iter().flatten() {
        eprintln!("       {violation}");
    }
}

fn broken(what: impl Into<String>) -> Findings {
    let mut findings = Findings::default();
    findings.violation(what);
    findings
}
