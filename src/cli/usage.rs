//! `usage`: what was used and what it cost.

use std::time::Duration;

use ai4free_ports::{
    runtime::Timestamp,
    usage_ledger::{Audience, Counters, UsageReport},
};
use serde_json::{Map, Value, json};

use super::{
    exit::{ExitStatus, Misuse},
    keys::key_id,
    moment,
    output::Report,
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
    /// Of one key [default: of all]
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
    #[default]
    Model,
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
    let audience = key.map_or(Audience::Operator, Audience::Key);
    let usage = administration.ledger.report(&audience, from, to).await?;
    report(&usage, arguments.by).print(session.format)?;
    Ok(ExitStatus::Success)
}

fn report(usage: &UsageReport, by: Grouping) -> Report {
    let (name, groups): (_, Vec<(String, &Counters)>) = match by {
        Grouping::Model => ("model", usage.by_model.iter().map(|(model, sums)| (model.clone(), sums)).collect()),
        Grouping::Day => ("day", usage.by_day.iter().map(|(day, sums)| (moment::show_day(*day), sums)).collect()),
    };
    let mut total = Counters::default();
    for (_, counters) in &groups {
        total.add(counters);
    }
    let data: Vec<Value> = groups.iter().map(|(group, counters)| object(Some((name, group)), counters)).collect();
    let json = json!({ "object": "usage_report", "currency": "USD", "data": data, "total": object(None, &total) });
    let total = ("total".to_owned(), &total);
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
    let mut members: Map<String, Value> =
        group.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
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
    fn a_report_has_exact_money_and_a_total() {
        let counters = |requests, pico| Counters {
            requests,
            successful: requests - 1,
            cost: PicoUsdSum(pico),
            ..Counters::default()
        };
        let mut usage = UsageReport::default();
        usage.by_model.insert("gpt-4o".to_owned(), counters(2, 1));
        usage.by_model.insert("o3".to_owned(), counters(3, 1_690_000_000));
        usage.by_day.insert(20_000, counters(5, 7));
        let by_model = report(&usage, Grouping::Model);
        assert_eq!(by_model.rows[2], ["total", "5", "3", "2", "0", "0", "0", "0.001690000001"]);
        assert_eq!(by_model.json["total"]["total_cost"], "0.001690000001");
        assert_eq!(by_model.json["data"][1]["model"], "o3");
        assert_eq!(by_model.json["data"][0].as_object().unwrap().keys().next().unwrap(), "model");
        assert_eq!(report(&usage, Grouping::Day).rows[0][0], "2024-10-04");
    }
}
