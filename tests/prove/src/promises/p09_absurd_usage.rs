//! Upstreams that report nothing, nonsense, or too much.

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order},
    oracle::Reconciliation,
    rig::{
        catalogue::{CHEAP, DEAR, PER_REQUEST, Usage},
        dice::Dice,
        ledger::{self, Event},
    },
    upstream::Script,
};

pub(super) const PROMISE: Promise = Promise {
    id: "P9",
    title: "an explicit zero costs zero, missing usage is estimated and says so, absurd usage is clamped and lowers nothing",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: u64 = 16;
/// More than any model reports in one reply.
const MOST: i64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zero,
    Missing,
    Absurd,
}

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (requests, dice) = (stage.count(1_600, 8_000), stage.dice());
    let rig = stage.services.rig().start().await;
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Lane::new(rig.gateways[0].key(json!({})).await, rig.gateways[0].address));
    }
    let each = usize::try_from(requests / LANES).unwrap();
    let lanes = load::drive(lanes, &dice, move |dice, lane| (lane.journal.len() < each).then(|| any(dice))).await;
    let journal = load::journal(&lanes);
    let events = rig.ledger().await;
    let reconciliation = Reconciliation::of(journal, &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(&mut findings);
    let mut counts = [0; 3];
    for request in &reconciliation.requests {
        findings.require(request.sent.complete, || format!("not answered: {:?}", request.sent.failure));
        let Some(event) = request.event else { continue };
        let (kind, order) = (kind_of(&request.sent.order), &request.sent.order);
        counts[kind as usize] += 1;
        let holds = is_sane(event, order)
            && match kind {
                Kind::Zero => event.usage == Usage::default() && event.source == ledger::PROVIDER,
                Kind::Missing => event.source != ledger::PROVIDER && event.usage.input > 0 && event.usage.output > 0,
                Kind::Absurd => true,
            };
        findings.require(holds, || format!("{kind:?} {:?} is charged as {event:?}", order.script.usage));
        if is_negative(order) {
            findings.require(event.source != ledger::PROVIDER, || {
                format!("{:?} is taken for the provider's count: {event:?}", order.script.usage)
            });
        }
    }
    for (name, count) in ["explicit_zero", "missing", "absurd"].into_iter().zip(counts) {
        findings.figure(name, count);
    }
    rig.check_ledger(&mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// No count and no cost is below zero or beyond belief, and the one follows from the other.
fn is_sane(event: &Event, order: &Order) -> bool {
    let usage = &event.usage;
    let counts = [usage.input, usage.cache_read, usage.output, usage.reasoning];
    counts.iter().all(|count| (0..=MOST).contains(count)) && event.cost_pico == order.model.cost_pico(usage)
}

fn any(dice: &mut Dice) -> Order {
    let usage = match dice.within(0..10) {
        0 | 1 => Some(Usage::default().on_the_wire()),
        2 => None,
        3 => Some(Value::Null),
        4 => Some(json!({})),
        _ => Some(absurd(dice)),
    };
    let mut order =
        Order::new(*dice.pick(&[CHEAP, DEAR, PER_REQUEST]), Usage::default(), Script::reporting(3, json!({})));
    order.script.usage = usage;
    if dice.percent(50) { order.streamed(dice.percent(50)) } else { order }
}

fn absurd(dice: &mut Dice) -> Value {
    let mut number = || -> Value {
        let numbers = [
            json!(-1),
            json!(-1_000_000),
            json!(i64::MIN),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(1e300),
            json!(-1e300),
            json!(0.5),
            json!(12.75),
            json!(1e18),
            json!("12"),
            json!(true),
            json!([1]),
            json!({"a": 1}),
            json!(null),
            json!(5),
        ];
        dice.pick(&numbers).clone()
    };
    let (prompt, completion) = (number(), number());
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": number(),
        "prompt_tokens_details": {"cached_tokens": number()},
        "completion_tokens_details": {"reasoning_tokens": number()},
    })
}

fn kind_of(order: &Order) -> Kind {
    match &order.script.usage {
        None | Some(Value::Null) => Kind::Missing,
        Some(usage) if usage.as_object().is_some_and(serde_json::Map::is_empty) => Kind::Missing,
        Some(usage) if *usage == Usage::default().on_the_wire() => Kind::Zero,
        Some(_) => Kind::Absurd,
    }
}

/// Both counts are numbers, and one is below zero.
fn is_negative(order: &Order) -> bool {
    let count = |name: &str| order.script.usage.as_ref().and_then(|usage| usage[name].as_f64());
    match (count("prompt_tokens"), count("completion_tokens")) {
        (Some(prompt), Some(completion)) => prompt < 0.0 || completion < 0.0,
        _ => false,
    }
}
