//! `[plans]`, `default_plan` and `[limits]`: who may use how much.

use std::collections::BTreeMap;

use ai4free_ports::limits::{Limits, OutagePolicy};

use super::{budget, section::Section};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// By name.
    pub plans: BTreeMap<String, Limits>,
    /// Of a new key that names none. Always one of `plans`.
    pub default_plan: String,
    pub gateway: Limits,
    /// Of an owner without an entry of their own.
    pub default_user: Limits,
    /// By `user_id`.
    pub users: BTreeMap<String, Limits>,
    /// Tokens reserved for an answer that nobody caps.
    pub assumed_output_tokens: u64,
    /// Tokens reserved for a prompt with media when the model's context is not known.
    pub assumed_context_tokens: u64,
    /// By model id. Already part of the catalogue.
    pub(super) models: BTreeMap<String, Limits>,
}

/// In the place of a limit.
const UNLIMITED: &str = "unlimited";

pub(super) fn read(root: &Section<'_>) -> LimitSettings {
    let plans: BTreeMap<_, _> = by_name(root.named("plans"));
    let default_plan = root.text("default_plan");
    if !plans.contains_key(&default_plan) {
        let known = super::errors::suggestion(&default_plan, plans.keys().map(String::as_str));
        root.wrong("default_plan", format!("there is no such plan{known}"));
    }
    let section = root.section("limits");
    let mut users = by_name(section.named("users"));
    let assumed = section.section("assumed");
    let settings = LimitSettings {
        plans,
        default_plan,
        gateway: read_limits(section.section("gateway")),
        default_user: users.remove("default").unwrap_or(Limits::NONE),
        users,
        assumed_output_tokens: assumed.number("output_tokens", 1..=1_000_000_000),
        assumed_context_tokens: assumed.number("context_tokens", 1..=1_000_000_000),
        models: by_name(section.named("models")),
    };
    assumed.finish();
    section.finish();
    settings
}

pub(super) fn read_limits(section: Section<'_>) -> Limits {
    let limits = Limits {
        requests_per_minute: limit(&section, "requests_per_minute"),
        image_requests_per_minute: limit(&section, "image_requests_per_minute"),
        tokens_per_minute: limit(&section, "tokens_per_minute"),
        max_concurrent_requests: limit(&section, "max_concurrent_requests"),
        budget: if section.says("budget", UNLIMITED) {
            None
        } else {
            section.optional_section("budget").and_then(budget::read)
        },
        on_redis_down: outage_policy(&section),
    };
    section.finish();
    limits
}

/// What happens while the limiter that all replicas share can't be asked.
pub(super) fn outage_policy(section: &Section<'_>) -> Option<OutagePolicy> {
    section.choice("on_redis_down", &OutagePolicy::ALL.map(|policy| (policy.as_str(), policy)))
}

/// `"unlimited"` takes away a limit that a layer below has set.
fn limit(section: &Section<'_>, key: &'static str) -> Option<u64> {
    let unlimited = section.optional_text(key).is_none_or(|text| text == UNLIMITED);
    if unlimited { None } else { section.optional_number(key, 0..=1_000_000_000_000) }
}

fn by_name(sections: Vec<(String, Section<'_>)>) -> BTreeMap<String, Limits> {
    sections.into_iter().map(|(name, section)| (name, read_limits(section))).collect()
}
