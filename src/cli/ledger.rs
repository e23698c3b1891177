//! `ledger`: whether the sums are those of the events, and charges at another price.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ai4free_ports::{
    money::PicoUsdSum,
    runtime::{Clock, Timestamp},
    usage_ledger::{Difference, Verification},
};
use serde_json::{Value, json};

use super::{
    exit::{ExitStatus, Misuse},
    moment, output,
    output::Report,
    session::Session,
};
use crate::{
    application::{
        counters::Compared,
        reprice::{Mode, Repriced, Repricing, Selection},
    },
    wiring::{self, Accounts, Administration},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum LedgerVerb {
    /// Compare all sums with the events, and what Redis has counted of budgets with the sums: exit code 1 if any differs
    Verify(Period),
    /// Charge again at the prices that the catalogue has now, each difference as a row of its own
    Reprice(RepriceArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct Period {
    /// A day or a time [default: the beginning]
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    from: Option<Timestamp>,
    /// A day or a time, not included [default: now]
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    to: Option<Timestamp>,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct RepriceArguments {
    /// A model whose charges are looked at; repeatable
    #[arg(long = "model", value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    models: Vec<String>,
    /// The charges of all models
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    period: Period,
    /// Append the differences; without it they are only shown
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(session: &Session, verb: LedgerVerb) -> anyhow::Result<ExitStatus> {
    let administration = wiring::administration(&session.settings).await?;
    let accounts = wiring::accounts(&session.settings, &administration)?;
    let done = match verb {
        LedgerVerb::Verify(period) => verify(session, &administration, &accounts, &period).await,
        LedgerVerb::Reprice(arguments) => reprice(session, &administration, &accounts, &arguments).await,
    };
    accounts.close().await;
    done
}

async fn verify(
    session: &Session,
    administration: &Administration,
    accounts: &Accounts,
    period: &Period,
) -> anyhow::Result<ExitStatus> {
    let (from, to) = period.ends(&*administration.clock)?;
    let verification = administration.ledger.verify(from, to).await?;
    let compared = match &accounts.compare {
        Some(compare) => Some(compare.run(from, to).await),
        None => None,
    };
    let (compared, not_compared) = match compared.transpose() {
        Ok(compared) => (compared, None),
        Err(error) => (None, Some(error)),
    };
    verified(&verification, compared.as_ref()).print(session.format)?;
    if let Some(error) = not_compared {
        return Err(anyhow::Error::from(error).context("the counters of budgets in Redis were not compared"));
    }
    let is_all_well = verification.differences.is_empty() && compared.is_none_or(|all| all.differences.is_empty());
    Ok(if is_all_well { ExitStatus::Success } else { ExitStatus::Failure })
}

async fn reprice(
    session: &Session,
    administration: &Administration,
    accounts: &Accounts,
    arguments: &RepriceArguments,
) -> anyhow::Result<ExitStatus> {
    let selection = arguments.selection(administration)?;
    let mode = if arguments.yes { Mode::Append } else { Mode::DryRun };
    let Repricing { models, untold } = accounts.reprice.run(&selection, mode).await?;
    repriced(&models, mode).print(session.format)?;
    if mode == Mode::DryRun && models.values().any(|model| model.adjusted > 0) {
        output::complain("nothing was changed: repeat it with --yes");
    }
    if untold > 0 {
        output::complain(&format!(
            "Redis was not told of {untold} corrections: its budgets follow with their next windows, and `ledger verify` lists them"
        ));
        return Ok(ExitStatus::Failure);
    }
    Ok(ExitStatus::Success)
}

impl Period {
    fn ends(&self, clock: &dyn Clock) -> Result<(Timestamp, Timestamp), Misuse> {
        let from = self.from.unwrap_or_default();
        // Other processes' clocks may be a little ahead.
        let to = self.to.unwrap_or_else(|| clock.now().saturating_add(Duration::from_secs(3600)));
        if to <= from {
            return Err(Misuse("--to must be later than --from".to_owned()));
        }
        Ok((from, to))
    }
}

impl RepriceArguments {
    fn selection(&self, administration: &Administration) -> Result<Selection, Misuse> {
        let catalogue = administration.models.catalogue.current();
        let has_price = |model: &&String| catalogue.find(model).is_some_and(|model| model.price.is_some());
        if let Some(unknown) = self.models.iter().find(|model| !has_price(model)) {
            return Err(Misuse(format!("the catalogue has no price of a model `{unknown}`")));
        }
        let (from, to) = self.period.ends(&*administration.clock)?;
        let models: BTreeSet<String> = self.models.iter().cloned().collect();
        Ok(Selection { models: (!self.all).then_some(models), from, to })
    }
}

/// `compared`: the counters in Redis, if there is one.
fn verified(verification: &Verification, compared: Option<&Compared>) -> Report {
    let all = || verification.differences.iter().chain(compared.into_iter().flat_map(|compared| &compared.differences));
    let row =
        |difference: &Difference| vec![difference.sum.clone(), difference.stored.clone(), difference.expected.clone()];
    let object = |difference: &Difference| json!({ "sum": difference.sum, "stored": difference.stored, "expected": difference.expected });
    let differences: Vec<Value> = all().map(object).collect();
    let counters = compared.map(|compared| {
        [("budgets in Redis compared", compared.budgets), ("budgets in Redis undecided", compared.undecided)]
    });
    let counts = [("events read", verification.events), ("sums compared", verification.sums)];
    let counts = counts.into_iter().chain(counters.into_iter().flatten());
    let counts = counts.chain([("sums that differ", differences.len() as u64)]);
    let counts = counts.map(|(name, count)| vec![name.to_owned(), count.to_string(), String::new()]);
    Report {
        headers: vec!["sum", "stored", "expected"],
        rows: all().map(row).chain(counts).collect(),
        json: json!({
            "object": "ledger_verification",
            "events": verification.events,
            "sums": verification.sums,
            "redis": compared.map(|compared| json!({ "budgets": compared.budgets, "undecided": compared.undecided })),
            "differences": differences,
        }),
    }
}

fn repriced(models: &BTreeMap<String, Repriced>, mode: Mode) -> Report {
    let mut total = Repriced { is_priced: true, ..Repriced::default() };
    for model in models.values() {
        total.charges += model.charges;
        total.adjusted += model.adjusted;
        total.before += model.before;
        total.after += model.after;
    }
    let total = ("total".to_owned(), total);
    let rows = models.iter().chain([(&total.0, &total.1)]);
    let data: Vec<Value> = models.iter().map(|(name, model)| object(Some(name), model)).collect();
    Report {
        headers: vec!["model", "charges", "adjusted", "before USD", "after USD", "difference USD", ""],
        rows: rows.map(|(name, model)| row(name, model)).collect(),
        json: json!({
            "object": "ledger_repricing",
            "applied": mode == Mode::Append,
            "currency": "USD",
            "data": data,
            "total": object(None, &total.1),
        }),
    }
}

fn row(name: &str, model: &Repriced) -> Vec<String> {
    vec![
        name.to_owned(),
        model.charges.to_string(),
        model.adjusted.to_string(),
        model.before.to_string(),
        model.after.to_string(),
        difference(model).to_string(),
        if model.is_priced { String::new() } else { "has no price now".to_owned() },
    ]
}

fn object(name: Option<&str>, model: &Repriced) -> Value {
    let mut members = json!({
        "charges": model.charges,
        "adjusted": model.adjusted,
        "before": model.before.to_string(),
        "after": model.after.to_string(),
        "difference": difference(model).to_string(),
    });
    if let (Some(name), Some(members)) = (name, members.as_object_mut()) {
        members.insert("model".to_owned(), name.into());
        members.insert("is_priced".to_owned(), model.is_priced.into());
    }
    members
}

fn difference(model: &Repriced) -> PicoUsdSum {
    PicoUsdSum(model.after.0 - model.before.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verification_lists_what_differs_and_counts_what_was_read() {
        let difference =
            Difference { sum: "usage_hour k1".to_owned(), stored: "3".to_owned(), expected: "2".to_owned() };
        let in_redis = Difference { sum: "limiter budget".to_owned(), ..difference.clone() };
        let verification = Verification { events: 7, sums: 4, differences: vec![difference] };
        let report = verified(&verification, None);
        assert!(report.json["redis"].is_null());
        let compared = Compared { budgets: 3, undecided: 1, differences: vec![in_redis] };
        let both = verified(&verification, Some(&compared));
        assert_eq!(both.rows[1], ["limiter budget", "3", "2"]);
        assert_eq!(
            both.rows[4..],
            [
                ["budgets in Redis compared", "3", ""],
                ["budgets in Redis undecided", "1", ""],
                ["sums that differ", "2", ""]
            ]
        );
        assert_eq!(both.json["redis"], json!({"budgets": 3, "undecided": 1}));
        assert_eq!(report.rows[0], ["usage_hour k1", "3", "2"]);
        assert_eq!(report.rows[3], ["sums that differ", "1", ""]);
        assert_eq!((&report.json["events"], &report.json["differences"][0]["expected"]), (&json!(7), &json!("2")));
    }

    #[test]
    fn a_repricing_is_exact_and_says_what_has_no_price() {
        let model = |before, after, is_priced| Repriced {
            charges: 2,
            adjusted: u64::from(before != after),
            before: PicoUsdSum(before),
            after: PicoUsdSum(after),
            is_priced,
        };
        let models = BTreeMap::from([
            ("gone".to_owned(), model(5, 5, false)),
            ("gpt".to_owned(), model(2_000_000_000_000, 1_500_000_000_001, true)),
        ]);
        let report = repriced(&models, Mode::DryRun);
        assert_eq!(report.rows[0].last().unwrap(), "has no price now");
        assert_eq!(report.rows[1], ["gpt", "2", "1", "2", "1.500000000001", "-0.499999999999", ""]);
        assert_eq!(report.rows[2][..3], ["total", "4", "1"]);
        assert_eq!(
            (&report.json["applied"], &report.json["total"]["difference"]),
            (&json!(false), &json!("-0.499999999999"))
        );
    }
}
