//! Charges at another price, after a price was wrong: each difference is a row of its own, nothing is rewritten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ai4free_ports::{
    budget::{Holder, Spending},
    budget_counters::{BudgetCounters, CorrectionId},
    catalogue::{Catalogue, Price},
    error::StoreError,
    money::{PicoUsd, PicoUsdSum},
    runtime::{IdSource, Timestamp},
    usage::TokenUsage,
    usage_ledger::{Appended, Batch, EventKind, SpoolId, UsageEvent, UsageLedger},
};

use crate::application::pricing;

pub struct Reprice {
    pub ledger: Arc<dyn UsageLedger>,
    /// Of the limiter that all replicas share. `None`: each process has its own, and hears of it with its next window or start.
    pub counters: Option<Arc<dyn BudgetCounters>>,
    pub catalogue: Arc<dyn Catalogue>,
    pub ids: Arc<dyn IdSource>,
}

/// Which charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// `None`: all of them.
    pub models: Option<BTreeSet<String>>,
    pub from: Timestamp,
    pub to: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Says what would change.
    DryRun,
    Append,
}

/// What became of the charges of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repriced {
    pub charges: u64,
    /// Of these, how many cost something else now.
    pub adjusted: u64,
    pub before: PicoUsdSum,
    pub after: PicoUsdSum,
    /// Whether the model has a price now. Without one its charges stay as they are.
    pub is_priced: bool,
}

/// What became of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repricing {
    pub models: BTreeMap<String, Repriced>,
    /// Adjustments that are in the ledger and of which the shared limiter was not told, because it could not be reached. Nobody
    /// tells it later: to compare its counters finds them, and it follows with the next window.
    pub untold: u64,
}

impl Reprice {
    /// Compares every selected charge, with the adjustments that it has had, with what it costs at the price that the
    /// catalogue has now. A second run finds nothing to do, and so does a run after one that was interrupted, of what that one
    /// had done. What is appended is told to the shared limiter at once, and once: not again by a run after one that died in
    /// between.
    ///
    /// # Errors
    /// When the ledger fails. What was appended until then stays.
    pub async fn run(&self, selection: &Selection, mode: Mode) -> Result<Repricing, StoreError> {
        let catalogue = self.catalogue.current();
        let mut spool = None;
        let (mut models, mut untold) = (BTreeMap::<String, Repriced>::new(), 0);
        let mut after = None;
        loop {
            let rows = self.ledger.charges(selection.from, selection.to, after).await?;
            let Some(last) = rows.last() else { break };
            after = Some((last.request, last.attempt));
            let adjustments: Vec<UsageEvent> = attempts(&rows)
                .filter(|attempt| selection.includes(attempt.charge))
                .filter_map(|attempt| {
                    let model = &attempt.charge.model;
                    let price = catalogue.find(model).and_then(|model| model.price.clone());
                    attempt.reprice(price.as_deref(), models.entry(model.to_string()).or_default())
                })
                .collect();
            if mode == Mode::Append && !adjustments.is_empty() {
                let mut attached = match spool.take() {
                    Some(spool) => spool,
                    None => self.attach().await?,
                };
                let changes = changes(&adjustments);
                let appended = u64::try_from(adjustments.len()).unwrap_or(u64::MAX);
                attached.append(&*self.ledger, adjustments).await?;
                // Whoever did not answer once is not waited for with every page.
                if untold > 0 || !self.tell(attached.correction(), &changes).await {
                    untold += appended;
                }
                spool = Some(attached);
            }
        }
        if let Some(Spool { id, generation, .. }) = spool {
            self.ledger.retire(id, generation).await?;
        }
        Ok(Repricing { models, untold })
    }

    /// Whether the shared limiter has it.
    async fn tell(&self, id: CorrectionId, changes: &[(Spending, PicoUsdSum)]) -> bool {
        let Some(counters) = &self.counters else { return true };
        match counters.correct(id, changes).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the limiter can't be told what was corrected"
                );
                false
            }
        }
    }

    /// A spool that no other writer has, so that the ledger can tell a batch that is sent again.
    async fn attach(&self) -> Result<Spool, StoreError> {
        let id = SpoolId(self.ids.request_id().0);
        let attachment = self.ledger.attach(id).await?;
        Ok(Spool { id, generation: attachment.generation, position: attachment.acknowledged })
    }
}

impl Selection {
    fn includes(&self, charge: &UsageEvent) -> bool {
        self.models.as_ref().is_none_or(|models| models.contains(&*charge.model))
    }
}

/// A charge, and what it was adjusted by.
struct Attempt<'a> {
    charge: &'a UsageEvent,
    adjustments: &'a [UsageEvent],
}

fn attempts(rows: &[UsageEvent]) -> impl Iterator<Item = Attempt<'_>> {
    rows.chunk_by(|a, b| (a.request, a.attempt) == (b.request, b.attempt)).filter_map(|rows| {
        let (charge, adjustments) = rows.split_first()?;
        (charge.kind == EventKind::Charge).then_some(Attempt { charge, adjustments })
    })
}

impl Attempt<'_> {
    /// The row that makes its cost that of this price, if it is another.
    fn reprice(&self, price: Option<&Price>, sums: &mut Repriced) -> Option<UsageEvent> {
        let mut before = PicoUsdSum::default();
        for row in std::iter::once(self.charge).chain(self.adjustments) {
            before += row.cost;
        }
        sums.charges += 1;
        sums.before += before;
        sums.is_priced = price.is_some();
        let after = price.map_or(before, |price| {
            let mut cost = PicoUsdSum::default();
            cost += pricing::charge(Some(price), self.charge.outcome, &self.charge.usage);
            cost
        });
        sums.after += after;
        if after == before {
            return None;
        }
        sums.adjusted += 1;
        let latest = self.adjustments.iter().map(|row| row.revision).max().unwrap_or(0);
        Some(UsageEvent {
            kind: EventKind::Adjustment,
            revision: latest.saturating_add(1),
            usage: TokenUsage::default(),
            price_version: price.map(|price| price.version),
            // Of two charges that each fit: their difference fits unless both are absurd.
            cost: PicoUsd(i64::try_from(after.0 - before.0).unwrap_or(i64::MAX)),
            provider_cost: None,
            ..self.charge.clone()
        })
    }
}

/// What the budgets of shared grants are charged more, or less.
fn changes(adjustments: &[UsageEvent]) -> Vec<(Spending, PicoUsdSum)> {
    let of_one = |event: &UsageEvent| {
        let change = PicoUsdSum(event.cost.0.into());
        let shared = event.spending.iter().filter(|spending| matches!(spending.holder, Holder::Shared(_)));
        shared.map(|spending| (spending.clone(), change)).collect::<Vec<_>>()
    };
    adjustments.iter().flat_map(of_one).collect()
}

struct Spool {
    id: SpoolId,
    generation: i64,
    position: u64,
}

impl Spool {
    /// Of what was appended last.
    fn correction(&self) -> CorrectionId {
        CorrectionId { run: self.id, number: self.position }
    }

    async fn append(&mut self, ledger: &dyn UsageLedger, events: Vec<UsageEvent>) -> Result<(), StoreError> {
        let mut batch = Batch { spool: self.id, generation: self.generation, from: self.position, events };
        loop {
            match ledger.append(&batch).await? {
                Appended::Acknowledged(position) => {
                    self.position = position;
                    return Ok(());
                }
                // The database went back to an older state: earlier rows are missing, and the next run finds them.
                Appended::StandsAt(position) => batch.from = position,
                Appended::Fenced => return Err(StoreError::Conflict("the spool of this run was taken over".into())),
            }
        }
    }
}

#[cfg(test)]
mod tests;
