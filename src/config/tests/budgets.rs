//! Budgets, wherever limits are configured.

use ai4free_ports::{
    budget::{Budget, BudgetPeriod},
    limits::{Limits, OutagePolicy},
    money::PicoUsdSum,
};

use super::{TwoZones, errors, load, settings, with_file};

const USD: i128 = 1_000_000_000_000;

fn budget(pico: i128, period: BudgetPeriod) -> Budget {
    Budget { amount: PicoUsdSum(pico), period, time_zone: "UTC".into(), on_redis_down: OutagePolicy::LocalShare }
}

#[test]
fn a_budget_stands_wherever_limits_do() {
    let text = r#"
        [plans.trial]
        budget = { amount_usd = "5.00", window = "day", time_zone = "Europe/Berlin", on_redis_down = "closed" }
        on_redis_down = "open"
        [limits.gateway.budget]
        amount_usd = 1000
        window = "month"
        [limits.users.default]
        budget = { amount_usd = "0.000000000001" }
        [limits.users.eve]
        budget = { amount_usd = "0", window = "week" }
        [limits.models."local/echo"]
        budget = { amount_usd = "2.5", window = "hour" }
        [providers.openai]
        base_url = "https://api.example.com/v1"
        [[providers.openai.credentials]]
        secret = "k"
        limits = { budget = { amount_usd = "7" } }
        [cluster]
        replicas = 3
        [usage]
        retention_days = 400
    "#;
    let (_directory, sources) = with_file("ai4free.toml", text, &[]);
    let settings = load(&sources, &TwoZones).unwrap();
    let limits = &settings.limits;
    let trial = &limits.plans["trial"];
    let expected = Budget {
        time_zone: "Europe/Berlin".into(),
        on_redis_down: OutagePolicy::Closed,
        ..budget(5 * USD, BudgetPeriod::Day)
    };
    assert_eq!((&trial.budget, trial.on_redis_down), (&Some(expected), Some(OutagePolicy::Open)));
    let budget_of = |limits: &Limits| limits.budget.clone().unwrap();
    assert_eq!(budget_of(&limits.gateway), budget(1000 * USD, BudgetPeriod::Month));
    assert_eq!(budget_of(&limits.default_user), budget(1, BudgetPeriod::Total));
    assert_eq!(budget_of(&limits.users["eve"]), budget(0, BudgetPeriod::Week));
    let echo = settings.catalogue.find("local/echo").unwrap();
    assert_eq!(budget_of(&echo.limits), budget(5 * USD / 2, BudgetPeriod::Hour));
    let openai = settings.providers.find("openai").unwrap();
    assert_eq!(budget_of(&openai.credentials[0].limits), budget(7 * USD, BudgetPeriod::Total));
    assert_eq!(settings.cluster.replicas, 3);
    assert_eq!(settings.usage.retention.map(|kept| kept.as_secs()), Some(400 * 86_400));
}

#[test]
fn by_default_there_is_no_budget_one_replica_and_no_end_of_the_ledger() {
    let settings = settings(&[]);
    assert!(settings.limits.plans.values().all(|plan| plan.budget.is_none() && plan.on_redis_down.is_none()));
    assert!(settings.limits.gateway.budget.is_none() && settings.limits.default_user.budget.is_none());
    assert_eq!((settings.cluster.replicas, settings.usage.retention), (1, None));
}

#[test]
fn a_variable_sets_a_budget_and_a_file_takes_one_away() {
    let variables =
        [("AI4FREE__PLANS__STANDARD__BUDGET__AMOUNT_USD", "1.50"), ("AI4FREE__LIMITS__GATEWAY__BUDGET", "unlimited")];
    let text = "[limits.gateway]\nbudget = { amount_usd = \"5\" }";
    let (_directory, sources) = with_file("ai4free.toml", text, &variables);
    let limits = load(&sources, &TwoZones).unwrap().limits;
    assert_eq!(limits.plans["standard"].budget, Some(budget(3 * USD / 2, BudgetPeriod::Total)));
    assert_eq!(limits.gateway.budget, None);
}

#[test]
fn every_mistake_in_every_budget_is_told_at_once() {
    let text = r#"
        [plans.float]
        budget = { amount_usd = 5.00 }
        [plans.none]
        budget = { window = "day" }
        [plans.negative]
        budget = { amount_usd = "-1" }
        [plans.large]
        budget = { amount_usd = "9000000001" }
        [plans.fine]
        budget = { amount_usd = "0.0000000000001" }
        [plans.window]
        budget = { amount_usd = "1", window = "year" }
        [plans.zone]
        budget = { amount_usd = "1", time_zone = "Europe/Bonn" }
        [plans.policy]
        budget = { amount_usd = "1", on_redis_down = "fail" }
        on_redis_down = "fail"
        [plans.unknown]
        budget = { amount_usd = "1", amount = "1" }
        [plans.number]
        budget = 5
        [cluster]
        replicas = 0
    "#;
    let (_directory, sources) = with_file("ai4free.toml", text, &[]);
    let errors = errors(&sources);
    let found: Vec<(&str, &str)> =
        errors.problems().iter().map(|problem| (problem.path.as_str(), problem.message.as_str())).collect();
    for (path, message) in [
        ("plans.float.budget.amount_usd", "expected US dollars in quotes"),
        ("plans.none.budget.amount_usd", "expected US dollars in quotes"),
        ("plans.negative.budget.amount_usd", "expected US dollars in quotes"),
        ("plans.large.budget.amount_usd", "expected US dollars in quotes"),
        ("plans.fine.budget.amount_usd", "expected US dollars in quotes"),
        ("plans.window.budget.window", "expected one of `total`, `hour`"),
        ("plans.zone.budget.time_zone", "there is no such time zone"),
        ("plans.policy.budget.on_redis_down", "expected one of `closed`, `local_share`, `open`"),
        ("plans.policy.on_redis_down", "expected one of `closed`"),
        ("plans.unknown.budget.amount", "unknown setting; did you mean `amount_usd`?"),
        ("plans.number.budget", "expected a section"),
        ("cluster.replicas", "expected a whole number from 1"),
    ] {
        let told = found.iter().filter(|(at, what)| *at == path && what.starts_with(message)).count();
        assert_eq!(told, 1, "{path}: {found:?}");
    }
}
