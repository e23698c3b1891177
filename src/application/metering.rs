//! Metering what a request uses, and settling it exactly once, however it ends.
//!
//! On a normal end the settlement is in the journal before the last bytes are released ([`Meter::written`]); on every other end (error, client
//! gone, panic, timeout) the meter's `Drop` writes it, synchronously.

use std::{borrow::Cow, sync::Arc, time::Duration};

use ai4free_ports::{
    catalogue::Price,
    error::{ProviderError, ProviderErrorKind},
    llm_provider::Facts,
    request::RequestId,
    runtime::Clock,
    usage::{TokenUsage, UsageSource},
    usage_journal::{Checkpoint, UsageJournal},
    usage_ledger::{Outcome, UsageEvent},
};
use futures_util::future::BoxFuture;

use crate::application::{
    admission::{Admission, Order},
    bounds::Bounds,
    counting,
    failure::{Failure, Unavailable},
    gate::Gate,
    leases::{Leases, ToppedUp, ToppingUp},
    observation::Observation,
    policy::{self, ScopeLimits},
    pricing,
};

/// The code of a reply that was ended because no more could be reserved for it.
const OUTPUT_CEILING: &str = "output_ceiling";

/// Holds an open request's event, its leases and its observation, and settles all three together.
pub(super) struct Meter {
    journal: Arc<dyn UsageJournal>,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    leases: Leases,
    observation: Observation,
    price: Option<Arc<Price>>,
    bounds: Bounds,
    prompt_bytes: u64,
    /// The name of the model in the rows of requests that no provider served: a client can't fill the ledger with names.
    label: Arc<str>,
    admitted: Duration,
    /// The bound that was journalled; becomes the final event.
    event: UsageEvent,
    earlier_attempts: Vec<UsageEvent>,
    /// Whether one of them reached its provider.
    sent_earlier: bool,
    facts: Facts,
    /// Whether the provider may have begun to work: only then is anything charged on an interruption.
    sent: bool,
    /// Whether the client went away, and its stream is still read.
    client_left: bool,
    /// Whether a later candidate's budget may be charged.
    may_spend: bool,
    open: bool,
}

impl Meter {
    pub(super) fn opened(
        admission: &Admission,
        journal: Arc<dyn UsageJournal>,
        leases: Leases,
        order: Order,
        observation: Observation,
    ) -> Self {
        let admitted = admission.clock.monotonic();
        Self {
            journal,
            clock: admission.clock.clone(),
            gate: admission.gate.clone(),
            leases,
            observation,
            price: order.price,
            bounds: order.bounds,
            prompt_bytes: order.prompt_bytes,
            label: order.label,
            admitted,
            event: order.bound,
            earlier_attempts: Vec::new(),
            sent_earlier: false,
            facts: Facts::default(),
            sent: false,
            client_left: false,
            may_spend: true,
            open: true,
        }
    }

    pub(super) fn request(&self) -> RequestId {
        self.event.request
    }

    pub(super) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// A provider is about to be called with this credential.
    pub(super) fn attempt(&mut self, provider: &Arc<str>, credential: &Arc<str>) {
        self.event.provider = Some(provider.clone());
        self.event.credential = Some(credential.clone());
        self.event.spending = self.leases.spending(Some(credential));
        self.observation.attempt(provider, credential);
        self.sent = true;
    }

    /// The attempt failed and another will follow: it gets a row of its own, and keeps what it may have cost.
    pub(super) fn attempt_failed(&mut self, error: &ProviderError) {
        self.sent_earlier |= error.request_was_sent;
        let usage = self.believed(self.usage_of_failure(error));
        let mut row = self.event.clone();
        row.outcome = Outcome::Failed;
        row.error = Some(Cow::Borrowed(error.kind.as_str()));
        row.usage = usage;
        row.usage_source = self.source();
        row.cost = pricing::charge(self.price.as_deref(), Outcome::Failed, &usage);
        row.total_ms = Some(self.elapsed_ms());
        self.earlier_attempts.push(row);
        self.event.attempt = self.event.attempt.saturating_add(1);
        self.sent = false;
    }

    /// It may have no row: what it costs could not be charged to a budget.
    pub(super) fn spends_no_money(&mut self) {
        self.may_spend = false;
    }

    /// Returns once the settlement is written, or the disk is known to be stalled.
    pub(super) fn written(&self) -> BoxFuture<'static, ()> {
        let journal = self.journal.clone();
        Box::pin(async move { journal.written().await })
    }

    /// Holds the limits of a further credential as well.
    pub(super) async fn extend(&mut self, scope: ScopeLimits) -> Result<(), Failure> {
        if !self.may_spend && policy::limits_money(std::slice::from_ref(&scope)) {
            return Err(Failure::unavailable(Unavailable::UsageJournal));
        }
        let first = self.bounds.first(self.price.as_deref());
        self.leases.reserve(&[scope], self.event.operation, first, &self.event).await.map(|_| ())
    }

    /// Begins to hold more output for the attempt that runs. `None`: nothing limits it.
    pub(super) fn top_up(&mut self, tokens: u64) -> Option<ToppingUp> {
        let cost = self.price.as_ref().and_then(|price| pricing::more_output(price, self.bounds.input, tokens));
        self.leases.top_up(self.event.credential.as_deref(), tokens, cost)
    }

    /// The tokens that are held now, unless more was refused.
    pub(super) fn topped_up(&mut self, answer: ToppedUp) -> Option<u64> {
        self.leases.topped_up(answer)
    }

    pub(super) fn waited_upstream(&mut self, duration: Duration) {
        self.observation.waited_upstream(duration);
    }

    pub(super) fn first_byte(&mut self) {
        if self.event.first_ms.is_none() {
            self.event.first_ms = Some(self.elapsed_ms());
            self.observation.first_byte();
        }
    }

    /// However the request goes on, its client has cancelled it.
    pub(super) fn client_left(&mut self) {
        self.client_left = true;
    }

    /// Whether the gateway is cutting what still runs.
    pub(super) fn is_cut(&self) -> bool {
        self.gate.is_cut()
    }

    /// Whether more was received than was reserved, as far as that can be told without a count.
    pub(super) fn exceeds_bound(&self) -> bool {
        counting::estimate(self.facts.output_bytes) > self.bounds.output
    }

    pub(super) fn has_usage(&self) -> bool {
        self.facts.usage.is_some()
    }

    pub(super) fn absorb(&mut self, facts: &Facts) {
        self.facts.absorb(facts);
    }

    /// Settles a complete reply with the provider's own count, or with ours if it gave none.
    pub(super) fn settle_success(&mut self, counted: Option<TokenUsage>) {
        match (self.facts.usage, counted) {
            (Some(usage), _) => self.settle(Outcome::Success, None, usage, UsageSource::Provider),
            (None, Some(usage)) => self.settle(Outcome::Success, None, usage, UsageSource::Counted),
            (None, None) => {
                let usage = self.observed();
                self.settle(Outcome::Success, None, usage, UsageSource::Estimated);
            }
        }
    }

    /// Settles a reply that was ended because no more could be reserved for it, to what was sent of it.
    pub(super) fn settle_ceiling(&mut self, input: Option<u64>, output: Option<u64>) -> TokenUsage {
        let source = if input.and(output).is_some() { UsageSource::Counted } else { UsageSource::Estimated };
        let usage = TokenUsage {
            input: input.unwrap_or_else(|| self.estimated_input()),
            output: output.unwrap_or_else(|| counting::estimate(self.facts.output_bytes)),
            ..TokenUsage::default()
        };
        self.settle(Outcome::Success, Some(OUTPUT_CEILING), usage, source);
        usage
    }

    /// The prompt, without a count.
    fn estimated_input(&self) -> u64 {
        // The bytes of an image are no measure of its tokens: never more than what was reserved.
        counting::estimate(self.prompt_bytes).min(self.event.usage.input)
    }

    /// Settles a request that a provider, or we, could not finish.
    pub(super) fn settle_failure(&mut self, error: &ProviderError) {
        if !error.request_was_sent {
            self.sent = false;
        }
        let usage = self.usage_of_failure(error);
        self.settle(Outcome::Failed, Some(error.kind.as_str()), usage, self.source());
    }

    /// Settles a request that, for a reason of ours, was not sent after all.
    pub(super) fn settle_unsent(&mut self, code: &'static str) {
        self.settle(Outcome::Failed, Some(code), TokenUsage::default(), UsageSource::Estimated);
    }

    fn usage_of_failure(&self, error: &ProviderError) -> TokenUsage {
        let may_have_cost = self.sent && error.request_was_sent && !self.refused_by_provider(error);
        if may_have_cost { self.observed() } else { TokenUsage::default() }
    }

    /// The provider answered with an error before anything else: it did no work. A deadline or a broken connection says nothing.
    fn refused_by_provider(&self, error: &ProviderError) -> bool {
        let answered = match error.kind {
            ProviderErrorKind::Credential
            | ProviderErrorKind::Quota
            | ProviderErrorKind::RateLimit
            | ProviderErrorKind::Overloaded
            | ProviderErrorKind::Server
            | ProviderErrorKind::Request => true,
            ProviderErrorKind::Timeout | ProviderErrorKind::Transport | ProviderErrorKind::Protocol => {
                error.status.is_some()
            }
        };
        answered && self.facts == Facts::default()
    }

    /// Writes what has been used so far, so that a crash loses no more.
    pub(super) fn checkpoint(&self) {
        let usage = self.bounds.ceiling.cut(&self.observed());
        self.journal.checkpoint(&Checkpoint {
            request: self.event.request,
            usage,
            source: UsageSource::Estimated,
            cost: pricing::cost(self.price.as_deref(), &usage),
        });
    }

    /// What was seen of the request: the provider's count if there is one, else the prompt and the received part, estimated.
    fn observed(&self) -> TokenUsage {
        self.facts.usage.unwrap_or_else(|| TokenUsage {
            input: self.estimated_input(),
            output: counting::estimate(self.facts.output_bytes),
            ..TokenUsage::default()
        })
    }

    fn source(&self) -> UsageSource {
        if self.facts.usage.is_some() { UsageSource::Provider } else { UsageSource::Estimated }
    }

    fn settle(&mut self, outcome: Outcome, error: Option<&'static str>, usage: TokenUsage, source: UsageSource) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let (outcome, error, source) = if self.client_left {
            let source = if source == UsageSource::Provider { UsageSource::Drained } else { source };
            (Outcome::Cancelled, None, source)
        } else {
            (outcome, error, source)
        };
        let usage = self.believed(usage);
        let cost = pricing::charge(self.price.as_deref(), outcome, &usage);
        if outcome == Outcome::Failed && usage == TokenUsage::default() {
            self.event.model = self.label.clone();
        }
        self.event.outcome = outcome;
        self.event.error = error.map(Cow::Borrowed);
        self.event.usage = usage;
        self.event.usage_source = source;
        self.event.cost = cost;
        self.event.provider_cost = self.facts.provider_cost;
        self.event.total_ms = Some(self.elapsed_ms());
        let events = if self.earlier_attempts.is_empty() {
            std::slice::from_ref(&self.event)
        } else {
            self.earlier_attempts.push(self.event.clone());
            &self.earlier_attempts
        };
        self.journal.close(self.event.request, events);
        if self.leases.settle(u64::from(self.sent || self.sent_earlier), events) {
            tracing::warn!(request = %self.event.request, %cost, "a request cost more than was reserved of its budget");
            self.observation.reservation_exceeded();
        }
        let cost = self.event.price_version.map(|_| cost);
        self.observation.ended(outcome, error, usage, source, cost);
    }

    /// A report without what its model can't have done.
    fn believed(&mut self, reported: TokenUsage) -> TokenUsage {
        let usage = self.bounds.ceiling.cut(&reported);
        if usage != reported {
            tracing::warn!(request = %self.event.request, ?reported, "more usage is reported than the model can have");
            self.observation.usage_clamped();
        }
        usage
    }

    fn elapsed_ms(&self) -> u32 {
        u32::try_from(self.clock.monotonic().saturating_sub(self.admitted).as_millis()).unwrap_or(u32::MAX)
    }
}

/// However else a request ends: the client went away, a shutdown cut it, something panicked.
impl Drop for Meter {
    fn drop(&mut self) {
        if self.open {
            let usage = if self.sent { self.observed() } else { TokenUsage::default() };
            let ours = self.gate.is_cut().then_some("gateway_stopped");
            let outcome = if ours.is_some() { Outcome::Failed } else { Outcome::Cancelled };
            self.settle(outcome, ours, usage, self.source());
        }
    }
}
