//! `usage`: what was used and what it cost.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use ai4free_ports::{
    runtime::Timestamp,
    usage_ledger::{Audience, Counters, Dimension},
};
use serde_json::{Map, Value, json};

use super::{
    exit::{ExitStatus, Misuse},
    keys::key_id,
    moment,
    output::{Format, Report},
    session::Session,
};
use crate::wiring;

#[derive(Debug, clap::Subcommand)]
pub(super) enum UsageVerb {
    /// Sum up requests, tokens and cost
    Report(ReportArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct ReportArguments {
    /// Of one key, by model or by day [default: of all]
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// A day or a time, rounded down to its hour [default: the beginning]
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    from: Option<Timestamp>,
    /// A day or a time, rounded up to its hour, not included [default: now]
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    to: Option<Timestamp>,
    /// What a row is
    #[arg(long, value_enum, default_value_t)]
    by: Grouping,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Grouping {
    Key,
    User,
    #[default]
    Model,
    Provider,
    Day,
}

pub(super) async fn run(session: &Session, verb: UsageVerb) -> anyhow::Result<ExitStatus> {
    let UsageVerb::Report(arguments) = verb;
    let key = arguments.key.as_deref().map(key_id).transpose()?;
    let administration = wiring::administration(&session.settings).await?;
    let from = arguments.from.unwrap_or_default();
    let to = arguments.to.unwrap_or_else(|| administration.clock.now().saturating_add(Duration::from_secs(3600)));
    if to <= from {
        return Err(Misuse("--to must be later than --from".to_owned()).into());
    }
    let ledger = &administration.ledger;
    let sums = match (key, arguments.by) {
        (None, by) => ledger.breakdown(by.dimension(), from, to).await?,
        (Some(key), Grouping::Model) => ledger.report(&Audience::Key(key), from, to).await?.by_model,
        (Some(key), Grouping::Day) => {
            let days = ledger.report(&Audience::Key(key), from, to).await?.by_day;
            days.into_iter().map(|(day, sums)| (moment::show_day(day), sums)).collect()
        }
        (Some(_), _) => return Err(Misuse("--key goes with --by model or --by day".to_owned()).into()),
    };
    let mut report = report(sums, arguments.by);
    if session.format == Format::Csv {
        // A program would add it to the others.
        report.rows.pop();
    }
    report.print(session.format)?;
    Ok(ExitStatus::Success)
}

impl Grouping {
    fn dimension(self) -> Dimension {
        match self {
            Self::Key => Dimension::Key,
            Self::User => Dimension::User,
            Self::Model => Dimension::Model,
            Self::Provider => Dimension::Provider,
            Self::Day => Dimension::Day,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::User => "user",
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Day => "day",
        }
    }
}

/// The dearest first, days in their order; the total is the last row.
fn report(sums: BTreeMap<String, Counters>, by: Grouping) -> Report {
    let name = by.name();
    let mut groups: Vec<(String, Counters)> = sums.into_iter().collect();
    if by != Grouping::Day {
        groups.sort_by_key(|(_, counters)| Reverse(counters.cost));
    }
    let mut total = Counters::default();
    for (_, counters) in &groups {
        total.add(counters);
    }
    let data: Vec<Value> = groups.iter().map(|(group, counters)| object(Some((name, group)), counters)).collect();
    let json = json!({ "object": "usage_report", "currency": "USD", "data": data, "total": object(None, &total) });
    let total = ("total".to_owned(), total);
    Report {
        headers: vec![
            name,
            "requests",
            "successful",
            "failed",
            "cancelled",
            "input tokens",
            "output tokens",
            "cost USD",
        ],
        rows: groups.iter().chain([&total]).map(|(group, counters)| row(group, counters)).collect(),
        json,
    }
}

fn row(group: &str, counters: &Counters) -> Vec<String> {
    let numbers = [
        counters.requests,
        counters.successful,
        counters.failed(),
        counters.cancelled,
        counters.input_tokens,
        counters.output_tokens,
    ];
    let numbers = numbers.iter().map(ToString::to_string);
    [group.to_owned()].into_iter().chain(numbers).chain([counters.cost.to_string()]).collect()
}

fn object(group: Option<(&str, &str)>, counters: &Counters) -> Value {
    // What belongs to no user, or reached no provider, is under the empty name.
    let member = |(name, value): (&str, &str)| (name.to_owned(), Some(value).filter(|value| !value.is_empty()).into());
    let mut members: Map<String, Value> = group.into_iter().map(member).collect();
    let sums = json!({
        "total_requests": counters.requests,
        "successful_requests": counters.successful,
        "failed_requests": counters.failed(),
        "cancelled_requests": counters.cancelled,
        "input_tokens": counters.input_tokens,
        "output_tokens": counters.output_tokens,
        "total_cost": counters.cost.to_string(),
    });
    if let Value::Object(sums) = sums {
        members.extend(sums);
    }
    members.into()
}

#[cfg(test)]
mod tests {
    use ai4free_ports::money::PicoUsdSum;

    use super::*;

    #[test]
    fn a_report_has_exact_money_the_dearest_first_and_a_total() {
        let counters = |requests, pico| Counters {
            requests,
            successful: requests - 1,
            cost: PicoUsdSum(pico),
            ..Counters::default()
        };
        let sums = BTreeMap::from([
            ("gpt-4o".to_owned(), counters(2, 1)),
            ("o3".to_owned(), counters(3, 1_690_000_000)),
            (String::new(), counters(1, 2)),
        ]);
        let by_model = report(sums, Grouping::Model);
        assert_eq!(by_model.rows.iter().map(|row| &*row[0]).collect::<Vec<_>>(), ["o3", "", "gpt-4o", "total"]);
        assert_eq!(by_model.rows[3], ["total", "6", "3", "3", "0", "0", "0", "0.001690000003"]);
        assert_eq!(by_model.json["total"]["total_cost"], "0.001690000003");
        assert_eq!(
            (&by_model.json["data"][0]["model"], &by_model.json["data"][1]["model"]),
            (&json!("o3"), &Value::Null)
        );
        assert_eq!(by_model.json["data"][0].as_object().unwrap().keys().next().unwrap(), "model");
        let days = ["2026-11-22", "2026-11-23"].map(|day| (day.to_owned(), Counters::default()));
        let by_day = report(days.into(), Grouping::Day);
        assert_eq!((&*by_day.rows[0][0], &*by_day.rows[1][0]), ("2026-11-22", "2026-11-23"));
    }
}
