//! Compares the client's journal, the upstream's journal and the ledger, as sets.

use std::collections::{BTreeMap, HashMap};

use crate::{
    findings::Findings,
    load::Sent,
    rig::ledger::{self, Event},
    upstream::{Served, UpstreamJournal},
};

/// Milliseconds. Client and gateway read one clock, and round it each in their own way. A lane pauses for longer after a
/// request whose name it did not learn.
const CLOCKS_DIFFER: u64 = 2;

/// One request as each of the three knows it.
pub(crate) struct Matched<'a> {
    pub(crate) sent: &'a Sent,
    pub(crate) served: Option<Served>,
    pub(crate) event: Option<&'a Event>,
}

pub(crate) struct Reconciliation<'a> {
    pub(crate) requests: Vec<Matched<'a>>,
    /// Events that no request explains.
    pub(crate) strangers: Vec<&'a Event>,
    /// Upstream calls beyond the first of a request.
    repeated: u64,
}

impl<'a> Reconciliation<'a> {
    /// A request that the client knows by name belongs to the event of that name; another one to the event of its key whose
    /// name was made while the client waited for it: a key has one request at a time.
    pub(crate) fn of(
        journal: impl IntoIterator<Item = &'a Sent>,
        upstream: &UpstreamJournal,
        events: &'a [Event],
    ) -> Self {
        let mut served = upstream.all();
        let mut by_name: HashMap<String, &Event> = HashMap::new();
        let mut strangers = Vec::new();
        for event in events {
            if by_name.insert(plain(&event.request), event).is_some() {
                strangers.push(event);
            }
        }
        let (mut requests, mut nameless): (Vec<Matched<'_>>, BTreeMap<&str, Vec<usize>>) =
            (Vec::new(), BTreeMap::new());
        for sent in journal {
            let event = sent.request_id.as_ref().and_then(|id| by_name.remove(&plain(id)));
            if sent.request_id.is_none() {
                nameless.entry(&sent.key).or_default().push(requests.len());
            }
            requests.push(Matched { sent, served: served.remove(&sent.order.proof), event });
        }
        for (_, event) in by_name {
            let named_at = made_at(&event.request);
            let fits = |index: &&usize| {
                let request = &requests[**index];
                let (from, to) = request.sent.named_between;
                request.event.is_none() && (from - CLOCKS_DIFFER..=to + CLOCKS_DIFFER).contains(&named_at)
            };
            let found = nameless.get(&*event.key).and_then(|indices| indices.iter().find(fits)).copied();
            match found {
                Some(index) => requests[index].event = Some(event),
                None => strangers.push(event),
            }
        }
        let repeated = upstream.repeated().values().map(|times| u64::from(*times) - 1).sum();
        Self { requests, strangers, repeated }
    }

    /// Every upstream call has exactly one charge, and nothing else has one.
    pub(crate) fn each_call_is_charged_once(&self, findings: &mut Findings) {
        let reached = || self.requests.iter().filter(|request| request.served.is_some());
        let missing: Vec<&Matched<'_>> = reached().filter(|request| request.event.is_none()).collect();
        findings.figure("upstream_calls", reached().count());
        findings.exactly("missing_charges", 0, missing.len() as i128);
        if let Some(first) = missing.first() {
            findings.violation(format!("not charged: {:?}", first.sent));
        }
        findings.exactly("duplicate_or_unexplained_charges", 0, self.strangers.len() as i128);
        if let Some(first) = self.strangers.first() {
            findings.violation(format!("nobody asked for {first:?}"));
        }
        findings.exactly("repeated_upstream_calls", 0, i128::from(self.repeated));
        let charged = self.requests.iter().filter_map(|request| request.event);
        if let Some(odd) = charged.into_iter().find(|event| (event.kind, event.attempt) != (ledger::CHARGE, 0)) {
            findings.violation(format!("not the charge of a first attempt: {odd:?}"));
        }
    }

    /// What the client has to the last byte, and the provider counted, is charged to the pico-dollar.
    pub(crate) fn complete_ones_are_exact(&self, findings: &mut Findings) {
        self.are_exact(self.requests.iter().filter(|request| request.sent.complete), findings);
    }

    /// The same where there is a charge.
    pub(crate) fn charged_ones_are_exact(&self, findings: &mut Findings) {
        let charged = |request: &&Matched<'_>| request.sent.complete && request.event.is_some();
        self.are_exact(self.requests.iter().filter(charged), findings);
    }

    fn are_exact<'b>(&'b self, complete: impl Iterator<Item = &'b Matched<'a>>, findings: &mut Findings)
    where
        'a: 'b,
    {
        let complete: Vec<&Matched<'_>> = complete.collect();
        let (mut off_by, mut wrong) = (0_i128, 0);
        for request in &complete {
            let Some(event) = request.event else {
                wrong += 1;
                continue;
            };
            let order = &request.sent.order;
            off_by += (event.cost_pico - order.cost_pico()).abs();
            let as_it_was = event.usage == order.usage
                && event.outcome == ledger::SUCCESS
                && event.source == ledger::PROVIDER
                && event.price_version == Some(i64::from(order.model.version))
                && event.model == order.model.id;
            if !as_it_was {
                wrong += 1;
                findings.violation(format!("{order:?} is charged as {event:?}"));
            }
        }
        findings.figure("complete", complete.len());
        findings.exactly("inexact_rows", 0, wrong);
        findings.exactly("sum_of_differences_pico_usd", 0, off_by);
    }
}

/// Σ of the costs.
pub(crate) fn total_pico<'a>(events: impl IntoIterator<Item = &'a Event>) -> i128 {
    events.into_iter().map(|event| event.cost_pico).sum()
}

/// Requests that were answered in full, and those that were not, with why.
pub(crate) fn failures<'a>(journal: impl IntoIterator<Item = &'a Sent>) -> Vec<String> {
    let incomplete = journal.into_iter().filter(|sent| !sent.complete);
    incomplete.map(|sent| sent.failure.clone().unwrap_or_else(|| "cut".to_owned())).collect()
}

/// The gateway's header and the ledger write the same id in two forms.
fn plain(id: &str) -> String {
    id.trim_start_matches("req_").chars().filter(|character| *character != '-').collect()
}

/// Milliseconds since the epoch in a version 7 UUID.
fn made_at(id: &str) -> u64 {
    u64::from_str_radix(plain(id).get(..12).unwrap_or_default(), 16).unwrap()
}
