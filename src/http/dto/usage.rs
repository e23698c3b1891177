use std::collections::BTreeMap;

use ai4free_ports::{
    key::KeyId,
    usage_ledger::{Counters, UsageReport},
};
use poem_openapi::Object;
use serde::Deserialize;
use time::{Date, Duration, macros::date};

use crate::{application::usage::BudgetStanding, http::dto::budget::BudgetUsage};

/// The old form: the key in the body instead of the header.
#[derive(Object, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UsageQuery {
    pub(in crate::http) api_key: Option<String>,
}

/// What a key has used. Money is a shortest exact decimal.
#[derive(Object)]
pub(in crate::http) struct Usage {
    /// `usage`.
    object: String,
    key_id: String,
    #[oai(flatten)]
    counters: UsageCounters,
    total_cost: String,
    /// `USD`.
    currency: String,
    /// Successful requests, in percent of all, with two decimals.
    success_rate: f64,
    model_usage: BTreeMap<String, ModelUsage>,
    days: Vec<DayUsage>,
    /// Of the key, or of its plan for each key, now. Null: no budget.
    budget: Option<BudgetUsage>,
}

#[derive(Object)]
pub(in crate::http) struct UsageCounters {
    total_requests: u64,
    successful_requests: u64,
    failed_requests: u64,
    cancelled_requests: u64,
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
}

#[derive(Object)]
pub(in crate::http) struct ModelUsage {
    #[oai(flatten)]
    counters: UsageCounters,
    cost: String,
}

#[derive(Object)]
pub(in crate::http) struct DayUsage {
    /// `YYYY-MM-DD`, UTC.
    date: String,
    #[oai(flatten)]
    counters: UsageCounters,
    cost: String,
}

impl Usage {
    pub(in crate::http) fn of(key: &KeyId, report: &UsageReport, budget: Option<&BudgetStanding>) -> Self {
        let mut total = Counters::default();
        for counters in report.by_model.values() {
            total.add(counters);
        }
        Self {
            object: "usage".to_owned(),
            key_id: key.to_string(),
            total_cost: total.cost.to_string(),
            currency: "USD".to_owned(),
            success_rate: success_rate(&total),
            model_usage: report
                .by_model
                .iter()
                .map(|(model, counters)| {
                    (
                        model.clone(),
                        ModelUsage { counters: UsageCounters::of(counters), cost: counters.cost.to_string() },
                    )
                })
                .collect(),
            days: report
                .by_day
                .iter()
                .map(|(day, counters)| DayUsage {
                    date: date_of(*day),
                    counters: UsageCounters::of(counters),
                    cost: counters.cost.to_string(),
                })
                .collect(),
            counters: UsageCounters::of(&total),
            budget: budget.map(BudgetUsage::of),
        }
    }
}

impl UsageCounters {
    fn of(counters: &Counters) -> Self {
        Self {
            total_requests: counters.requests,
            successful_requests: counters.successful,
            failed_requests: counters.failed(),
            cancelled_requests: counters.cancelled,
            input_tokens: counters.input_tokens,
            output_tokens: counters.output_tokens,
            total_tokens: counters.input_tokens.saturating_add(counters.output_tokens),
        }
    }
}

/// `62.07`: computed in hundredths of a percent, rounded half up.
fn success_rate(total: &Counters) -> f64 {
    let hundredths = (u128::from(total.successful) * 20_000 + u128::from(total.requests))
        .checked_div(u128::from(total.requests) * 2);
    let hundredths = hundredths.unwrap_or(0);
    format!("{}.{:02}", hundredths / 100, hundredths % 100).parse().unwrap_or_default()
}

fn date_of(day: i32) -> String {
    let epoch: Date = date!(1970 - 01 - 01);
    epoch.checked_add(Duration::days(day.into())).map(|date| date.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_dates_read_as_people_write_them() {
        let rate =
            |successful, requests| success_rate(&Counters { successful, requests, ..Counters::default() }).to_string();
        assert_eq!([rate(18, 29), rate(1, 1), rate(0, 0), rate(2, 3)], ["62.07", "100", "0", "66.67"]);
        assert_eq!(date_of(20_000), "2024-10-04");
    }
}
