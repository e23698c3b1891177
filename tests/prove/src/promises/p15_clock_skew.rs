//! The request limit again, with one replica's clock 5 s ahead and the other's 5 s behind.

use std::path::Path;

use futures_util::FutureExt;

use super::{Company, Promise, Stage, p10_request_limit};
use crate::{findings::Findings, rig::gateway::Launcher};

pub(super) const PROMISE: Promise = Promise {
    id: "P15",
    title: "limits hold while the replicas' clocks differ by 10 s",
    company: Company::Patient,
    prove: |stage| prove(stage).boxed_local(),
};

/// Debian's package `faketime`.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

async fn prove(stage: Stage<'_>) -> Findings {
    let library = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
    let Some(library) = library else {
        let mut findings = Findings::default();
        findings.violation("libfaketime is not installed (Debian: apt-get install faketime)");
        return findings;
    };
    let clock = |offset: &str| Launcher {
        words: [
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME={offset}"),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
        .into(),
    };
    let (sustained, dice) = (stage.is_full(), stage.dice());
    let builder = stage.services.rig().replicas(2).toml(p10_request_limit::SETTINGS);
    let builder = builder.launchers(vec![clock("+5s"), clock("-5s")]);
    let mut findings = p10_request_limit::prove_over(builder, sustained, &dice).await;
    findings.figure("skew_seconds", 10);
    findings
}
