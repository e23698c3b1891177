//! Spools, events, and what the ledger should say of them.

use std::{collections::BTreeMap, sync::Arc};

use ai4free_ports::{
    budget::{Epoch, Holder},
    key::KeyId,
    money::{PicoUsd, PicoUsdSum},
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{
        Appended, Audience, Batch, Counters, EventKind, Outcome, SpoolId, UsageEvent, UsageLedger, UsageReport,
    },
};
use uuid::Uuid;

use super::Harness;

/// 2025-06-15T12:00:00Z in microseconds.
pub(super) const NOON: i64 = 1_749_988_800_000_000;
pub(super) const BEGIN: Timestamp = Timestamp(0);
pub(super) const END: Timestamp = Timestamp(i64::MAX);
pub(super) const HOUR: i64 = 3_600_000_000;
/// What [`event`] costs: more than one limb.
pub(super) const COST: i128 = 1_690_000_123;

/// One attachment to one spool.
pub(super) struct Spool {
    pub(super) ledger: Arc<dyn UsageLedger>,
    pub(super) id: SpoolId,
    pub(super) generation: i64,
    pub(super) acknowledged: u64,
}

impl Spool {
    pub(super) async fn attach(harness: &impl Harness, number: u64) -> Self {
        let ledger = harness.ledger();
        let id = spool_id(number);
        let attachment = ledger.attach(id).await.unwrap();
        Self { ledger, id, generation: attachment.generation, acknowledged: attachment.acknowledged }
    }

    pub(super) async fn append(&self, from: u64, events: &[UsageEvent]) -> Appended {
        let batch = Batch { spool: self.id, generation: self.generation, from, events: events.to_vec() };
        self.ledger.append(&batch).await.unwrap()
    }

    /// Sends all events in small batches as a drainer does, until the end or until it is fenced.
    pub(super) async fn drain(&self, events: &[UsageEvent]) -> Appended {
        let mut position = self.acknowledged;
        loop {
            let rest = &events[usize::try_from(position).unwrap()..];
            let answer = self.append(position, &rest[..rest.len().min(7)]).await;
            match answer {
                Appended::Acknowledged(end) if end == events.len() as u64 => return answer,
                Appended::Acknowledged(next) | Appended::StandsAt(next) => position = next,
                Appended::Fenced => return answer,
            }
        }
    }

    /// As a process that spends by itself.
    pub(super) fn holder(&self) -> Holder {
        Holder::Process { spool: self.id, generation: self.generation }
    }

    pub(super) async fn beat(&self, closed_epoch: Epoch) {
        self.ledger.beat(self.id, self.generation, closed_epoch).await.unwrap();
    }

    pub(super) async fn recent(&self, audience: &Audience) -> Vec<UsageEvent> {
        self.ledger.recent(audience, 1000).await.unwrap()
    }

    pub(super) async fn report(&self, audience: &Audience) -> UsageReport {
        self.ledger.report(audience, BEGIN, END).await.unwrap()
    }

    /// These events, each once, and their sums.
    pub(super) async fn assert_holds(&self, events: &[UsageEvent]) {
        let mut expected = events.to_vec();
        expected.sort_by_key(|event| std::cmp::Reverse((event.request.day(), event.request, event.attempt)));
        assert_eq!(self.recent(&Audience::Operator).await, expected);
        assert_eq!(self.report(&Audience::Operator).await, sums_of(events));
    }
}

pub(super) fn spool_id(number: u64) -> SpoolId {
    SpoolId(Uuid::from_u128(0x5b00_1000 + u128::from(number)))
}

pub(super) fn key(number: u64) -> KeyId {
    KeyId::parse(&format!("k{number:011}")).unwrap()
}

/// A `UUIDv7`; those of one time stamp sort by number.
pub(super) fn request_at(millis: u64, number: u64) -> RequestId {
    RequestId(Uuid::from_u128(u128::from(millis) << 80 | 0x7 << 76 | 0x8 << 60 | u128::from(number)))
}

pub(super) fn event(number: u64) -> UsageEvent {
    UsageEvent {
        request: request_at(NOON as u64 / 1000, number),
        attempt: 1,
        kind: EventKind::Charge,
        revision: 0,
        operation: Operation::Chat,
        key: key(1),
        user: None,
        model: "gpt-x".into(),
        provider: None,
        credential: None,
        outcome: Outcome::Success,
        error: None,
        admitted_at: Timestamp(NOON),
        first_ms: None,
        total_ms: None,
        usage: TokenUsage { input: 11, cache_read: 5, output: 7, reasoning: 2, ..TokenUsage::default() },
        usage_source: UsageSource::Provider,
        price_version: Some(3),
        cost: PicoUsd(COST as i64),
        provider_cost: None,
        spending: Vec::new(),
    }
}

/// What the ledger should say of charges whose requests had one attempt.
pub(super) fn sums_of(events: &[UsageEvent]) -> UsageReport {
    let (mut by_model, mut by_day) = (BTreeMap::<String, Counters>::new(), BTreeMap::<i32, Counters>::new());
    for event in events {
        let mut cost = PicoUsdSum::default();
        cost += event.cost;
        let counters = Counters {
            requests: 1,
            successful: u64::from(event.outcome == Outcome::Success),
            cancelled: u64::from(event.outcome == Outcome::Cancelled),
            input_tokens: event.usage.input_total(),
            output_tokens: event.usage.output_total(),
            cost,
        };
        by_model.entry(event.model.to_string()).or_default().add(&counters);
        let day = i32::try_from(event.admitted_at.seconds().div_euclid(86_400)).unwrap();
        by_day.entry(day).or_default().add(&counters);
    }
    UsageReport { by_model, by_day }
}
