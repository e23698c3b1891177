//! `keys`: administration of API keys.

use std::time::Duration;

use ai4free_ports::{
    budget::{Budget, BudgetPeriod},
    key::KeyId,
    limits::Limits,
    money::PicoUsdSum,
    runtime::Timestamp,
};

use super::{
    exit::{ExitStatus, Misuse},
    key_view, moment,
    output::Report,
    session::Session,
};
use crate::{
    application::{
        key_budget::BudgetPatch,
        keys::{IssuedKey, Keys, NewKey},
    },
    wiring,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeysVerb {
    /// Create a key and print it, once
    Create(Box<CreateArguments>),
    /// List all keys
    List,
    /// Show a key
    Show { id: String },
    /// Revoke a key, for good
    Revoke { id: String },
    /// Give a key a new secret and print it, once
    Rotate {
        id: String,
        /// For how long the old secret works on
        #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
        grace_seconds: u64,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArguments {
    /// What the key is for
    #[arg(long)]
    name: String,
    /// Whose key it is; limits of the user apply to it
    #[arg(long, value_name = "ID")]
    user_id: Option<String>,
    /// A configured plan [default: the setting default_plan]
    #[arg(long)]
    plan: Option<String>,
    /// A model that the key may use, or a prefix like `openai/*`; repeatable [default: all]
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    #[arg(long, value_name = "N")]
    image_requests_per_minute: Option<u64>,
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    #[arg(long, value_name = "N")]
    max_concurrent_requests: Option<u64>,
    /// US dollars that the key may spend in each window, exact [default: the budget of the plan, if it has one]
    #[arg(long, value_name = "USD", value_parser = amount)]
    budget: Option<PicoUsdSum>,
    /// total, hour, day, week or month [default: total]
    #[arg(long, value_name = "WINDOW", value_parser = period, requires = "budget")]
    budget_window: Option<BudgetPeriod>,
    /// Where days, weeks and months begin, a name of the IANA database [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "budget")]
    budget_time_zone: Option<String>,
    /// The most tokens that one answer may have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_output_tokens: Option<u64>,
    /// A day or a time after which the key is refused
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    expires_at: Option<Timestamp>,
}

/// The store's own bound.
const PAGE: u16 = 100;

pub(super) async fn run(session: &Session, verb: KeysVerb) -> anyhow::Result<ExitStatus> {
    if let KeysVerb::Show { id } | KeysVerb::Revoke { id } | KeysVerb::Rotate { id, .. } = &verb {
        key_id(id)?;
    }
    let administration = wiring::administration(&session.settings).await?;
    let (keys, now) = (&administration.keys, administration.clock.now());
    let report = match verb {
        KeysVerb::Create(arguments) => issued(&keys.create(arguments.into_new_key()).await?, now),
        KeysVerb::List => list(keys, now).await?,
        KeysVerb::Show { id } => key_view::one(&keys.show(&id).await?, now, None),
        KeysVerb::Revoke { id } => key_view::one(&keys.revoke(&id).await?, now, None),
        KeysVerb::Rotate { id, grace_seconds } => {
            issued(&keys.rotate(&id, Duration::from_secs(grace_seconds)).await?, now)
        }
    };
    report.print(session.format)?;
    Ok(ExitStatus::Success)
}

/// Not a parser of clap's: its error would quote what was given, and that may be a whole key.
pub(super) fn key_id(text: &str) -> Result<KeyId, Misuse> {
    KeyId::parse(text).ok_or_else(|| Misuse("expected the 12 characters of a key's id, not the key itself".to_owned()))
}

fn amount(text: &str) -> Result<PicoUsdSum, String> {
    Budget::parse_amount(text).ok_or_else(|| "expected US dollars, like 5.00".to_owned())
}

fn period(text: &str) -> Result<BudgetPeriod, String> {
    let known = BudgetPeriod::ALL.map(BudgetPeriod::as_str).join(", ");
    BudgetPeriod::parse(text).ok_or_else(|| format!("expected one of {known}"))
}

impl CreateArguments {
    fn into_new_key(self) -> NewKey {
        let budget = self.budget.map(|amount| BudgetPatch {
            amount: Some(amount),
            period: self.budget_window,
            time_zone: self.budget_time_zone,
        });
        NewKey {
            name: self.name,
            user_id: self.user_id,
            plan: self.plan,
            limits: Limits {
                requests_per_minute: self.requests_per_minute,
                image_requests_per_minute: self.image_requests_per_minute,
                tokens_per_minute: self.tokens_per_minute,
                max_concurrent_requests: self.max_concurrent_requests,
                ..Limits::NONE
            },
            budget,
            models: self.models,
            max_output_tokens: self.max_output_tokens,
            expires_at: self.expires_at,
        }
    }
}

fn issued(issued: &IssuedKey, now: Timestamp) -> Report {
    key_view::one(&issued.key, now, Some(issued.text.reveal()))
}

async fn list(keys: &Keys, now: Timestamp) -> anyhow::Result<Report> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|key: &ai4free_ports::key::StoredKey| key.id.to_string());
        let page = keys.list(after.as_deref(), PAGE).await?;
        let is_last = !page.has_more || page.keys.is_empty();
        all.extend(page.keys);
        if is_last {
            return Ok(key_view::list(&all, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_key_in_place_of_its_id_is_refused_without_repeating_it() {
        assert!(key_id("abcdefghijkl").is_ok());
        let refused = key_id("sk-a4f-abcdefghijklCanary").err().unwrap().to_string();
        assert!(refused.contains("not the key itself") && !refused.contains("Canary"), "{refused}");
    }
}
