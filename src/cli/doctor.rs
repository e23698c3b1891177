//! `doctor`: what is wrong, in words.

use serde_json::{Value, json};

use super::{exit::ExitStatus, output::Report, session::Session};
use crate::wiring::{self, Diagnosis};

pub(super) async fn run(session: &Session) -> anyhow::Result<ExitStatus> {
    let diagnoses = wiring::doctor(&session.settings).await;
    report(&diagnoses).print(session.format)?;
    let healthy = diagnoses.iter().all(|diagnosis| diagnosis.healthy);
    Ok(if healthy { ExitStatus::Success } else { ExitStatus::Failure })
}

fn report(diagnoses: &[Diagnosis]) -> Report {
    let verdict = |diagnosis: &Diagnosis| if diagnosis.healthy { "ok" } else { "problem" };
    let row = |diagnosis: &Diagnosis| {
        vec![diagnosis.subject.clone(), verdict(diagnosis).to_owned(), diagnosis.detail.clone()]
    };
    let object = |diagnosis: &Diagnosis| json!({ "subject": diagnosis.subject, "healthy": diagnosis.healthy, "detail": diagnosis.detail });
    let data: Vec<Value> = diagnoses.iter().map(object).collect();
    Report {
        headers: vec!["subject", "state", "detail"],
        rows: diagnoses.iter().map(row).collect(),
        json: json!({ "healthy": diagnoses.iter().all(|diagnosis| diagnosis.healthy), "data": data }),
    }
}
