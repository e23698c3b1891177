//! Events for tests of this adapter alone.

use ai4free_ports::{
    budget::{Holder, MoneyWindow, Spending},
    key::KeyId,
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::Scope,
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{Appended, Attachment, Batch, EventKind, GrantRequest, Outcome, SpoolId, UsageEvent, UsageLedger},
};
use uuid::Uuid;

use crate::{Database, SqlUsageLedger};

pub(crate) const DAY: i64 = 86_400_000_000;
/// 2025-06-12T00:00:00Z, a Thursday, in microseconds: a partition begins.
pub(crate) const THURSDAY: i64 = 20_251 * DAY;
pub(crate) const COST: i64 = 1_690_000_123;
pub(crate) const SPOOL: SpoolId = SpoolId(Uuid::from_u128(0x5b00_1000));

pub(crate) fn key() -> KeyId {
    KeyId::parse("k00000000001").unwrap()
}

/// At a time in microseconds.
pub(crate) fn event(at: i64, number: u64) -> UsageEvent {
    let id = u128::try_from(at / 1000).unwrap() << 80 | 0x7 << 76 | 0x8 << 60 | u128::from(number);
    UsageEvent {
        request: RequestId(Uuid::from_u128(id)),
        attempt: 1,
        kind: EventKind::Charge,
        revision: 0,
        operation: Operation::Chat,
        key: key(),
        user: Some("ann".into()),
        model: "gpt-x".into(),
        provider: Some("openai".into()),
        credential: Some("openai#1".into()),
        outcome: Outcome::Success,
        error: None,
        admitted_at: Timestamp(at),
        first_ms: None,
        total_ms: None,
        usage: TokenUsage { input: 11, output: 7, ..TokenUsage::default() },
        usage_source: UsageSource::Provider,
        price_version: Some(3),
        cost: PicoUsd(COST),
        provider_cost: None,
        spending: Vec::new(),
    }
}

/// Appends them in one batch, charged to the day's budget of the key, of which all is granted.
pub(crate) async fn append(database: &Database, mut events: Vec<UsageEvent>) -> Attachment {
    let ledger = SqlUsageLedger::new(database.clone());
    let attachment = ledger.attach(SPOOL).await.unwrap();
    let holder = Holder::Process { spool: SPOOL, generation: attachment.generation };
    for event in &mut events {
        let start = event.admitted_at.0 / DAY * DAY;
        let window = MoneyWindow { start: Timestamp(start), end: Timestamp(start + DAY) };
        let (scope, limit) = (Scope::Key(key()), PicoUsdSum(1 << 60));
        event.spending = vec![Spending { scope: scope.clone(), window: window.start, holder }];
        let request =
            GrantRequest { scope, window, holder, limit, claim: PicoUsd(1), share: 1, known: PicoUsdSum::default() };
        ledger.grant(&request).await.unwrap();
    }
    let from = attachment.acknowledged;
    let batch = Batch { spool: SPOOL, generation: attachment.generation, from, events };
    let appended = ledger.append(&batch).await.unwrap();
    assert_eq!(appended, Appended::Acknowledged(from + batch.events.len() as u64));
    attachment
}
