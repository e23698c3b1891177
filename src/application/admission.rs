//! Reserving everything that a request may use, in every scope or in none, before a provider is called.
//!
//! Order: reserve, then journal `open`, then the provider. A refused request writes nothing, and what a crash leaves behind
//! between the two was never sent. Where the journal takes nothing and the operator has said that requests are served all the
//! same, one that spends of no budget goes on without a row.

use std::sync::Arc;

use ai4free_ports::{
    catalogue::Price, error::JournalError, request::Operation, runtime::Clock, usage_journal::UsageJournal,
    usage_ledger::UsageEvent,
};

use crate::application::{
    bounds::Bounds,
    failure::{Failure, Unavailable},
    gate::Gate,
    leases::Leases,
    metering::Meter,
    observation::Observation,
    policy::{self, ScopeLimits},
    reserver::Reserver,
    standing::LimitHeaders,
    unmetered::{NoJournal, Unmetered},
};

/// Proof that a request holds its reservations and is written in the journal, or need not be. Only [`Admission::admit`] makes one; dropping it
/// settles.
#[must_use]
pub struct Admitted {
    meter: Meter,
    limits: LimitHeaders,
}

impl Admitted {
    /// Gives up the proof: what is left is the meter, which settles however the request ends.
    pub(super) fn into_parts(self) -> (Meter, LimitHeaders) {
        (self.meter, self.limits)
    }
}

/// A request as admission sees it.
pub struct Order {
    pub operation: Operation,
    pub scopes: Vec<ScopeLimits>,
    pub bounds: Bounds,
    /// The whole event at what is reserved.
    pub bound: UsageEvent,
    pub price: Option<Arc<Price>>,
    /// [`ai4free_ports::catalogue::Model::label`].
    pub label: Arc<str>,
    /// The credential whose limits are among the scopes.
    pub first_credential: Option<Arc<str>>,
    /// Bytes of the prompt, for an estimate when the request is interrupted.
    pub prompt_bytes: u64,
}

pub struct Admission {
    pub reserver: Arc<Reserver>,
    pub journal: Arc<dyn UsageJournal>,
    pub clock: Arc<dyn Clock>,
    pub gate: Arc<Gate>,
    pub unmetered: Arc<Unmetered>,
}

pub struct NotAdmitted {
    pub failure: Failure,
    /// The order back, while nothing has come of it: the caller may try once more with a tighter bound. `None`: it was written
    /// in the journal, and is settled and observed.
    pub untouched: Option<(Order, Observation)>,
}

impl NotAdmitted {
    fn untouched(failure: Failure, order: Order, observation: Observation) -> Box<Self> {
        Box::new(Self { failure, untouched: Some((order, observation)) })
    }
}

impl Admission {
    /// # Errors
    /// [`Failure::LimitReached`] and [`Failure::BudgetExhausted`] with everything about what said no;
    /// [`Failure::Unavailable`] when we can't account.
    pub async fn admit(&self, order: Order, observation: Observation) -> Result<Admitted, Box<NotAdmitted>> {
        if !self.gate.is_open() {
            return Err(NotAdmitted::untouched(Failure::unavailable(Unavailable::Gateway), order, observation));
        }
        let mut order = order;
        let mut leases = Leases::none(self.reserver.clone(), order.bound.request);
        let first = order.bounds.first(order.price.as_deref());
        let mut limits = match leases.reserve(&order.scopes, order.operation, first, &order.bound).await {
            Ok(limits) => limits,
            Err(failure) => return Err(NotAdmitted::untouched(failure, order, observation)),
        };
        order.bound.spending = leases.spending(order.first_credential.as_deref());
        let (request, has_budget) = (order.bound.request, policy::limits_money(&order.scopes));
        let mut journal = self.journal.clone();
        if let Err(error) = self.open(&order.bound).await {
            if !self.unmetered.allows(&error, has_budget) {
                return Err(NotAdmitted::untouched(error.into(), order, observation));
            }
            (journal, limits.is_unmetered) = (Arc::new(NoJournal), true);
        }
        let mut meter = Meter::opened(self, journal.clone(), leases, order, observation);
        if let Err(error) = journal.durable(request).await {
            if !self.unmetered.allows(&error, has_budget) {
                let failure = Failure::from(error);
                meter.settle_unsent(failure.code());
                return Err(Box::new(NotAdmitted { failure, untouched: None }));
            }
            limits.is_unmetered = true; // whether it will have a row is the disk's to say
        }
        if limits.is_unmetered {
            meter.spends_no_money();
        }
        Ok(Admitted { meter, limits })
    }

    /// Waits for others who are writing, but for no disk that is stalled.
    async fn open(&self, bound: &UsageEvent) -> Result<(), JournalError> {
        loop {
            match self.journal.open(bound) {
                Err(JournalError::Busy) => self.journal.ready().await?,
                done => return done,
            }
        }
    }
}
