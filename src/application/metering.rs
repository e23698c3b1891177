//! Metering what a request uses, and settling it exactly once, however it ends.
//!
//! On a normal end the settlement is in the journal before the last bytes are released; on every other end (error, client
//! gone, panic, timeout) the meter's `Drop` writes it, synchronously.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use ai4free_ports::{
    catalogue::Price,
    error::{CountError, ProviderError, ProviderErrorKind},
    llm_provider::{Facts, Frame, FrameStream},
    money::PicoUsd,
    request::RequestId,
    runtime::Clock,
    usage::{TokenUsage, UsageSource},
    usage_journal::{Checkpoint, UsageJournal},
    usage_ledger::{Outcome, UsageEvent},
};
use bytes::Bytes;
use futures_core::Stream;

use crate::application::{
    admission::{Admission, Order},
    counting,
    failure::Failure,
    gate::Gate,
    leases::{Leases, UpperBound},
    observation::Observation,
    policy::ScopeLimits,
    pricing,
};

/// A stream writes what it has used so far at least this often, so that a crash loses no more.
const CHECKPOINT_FRAMES: u32 = 64;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);

/// Holds an open request's event, its leases and its observation, and settles all three together.
pub(super) struct Meter {
    journal: Arc<dyn UsageJournal>,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    leases: Leases,
    observation: Observation,
    price: Option<Arc<Price>>,
    /// What was reserved of the first attempt, and is again of each later one.
    most: UpperBound,
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
    open: bool,
}

impl Meter {
    pub(super) fn opened(admission: &Admission, leases: Leases, order: Order, observation: Observation) -> Self {
        let admitted = admission.clock.monotonic();
        Self {
            journal: admission.journal.clone(),
            clock: admission.clock.clone(),
            gate: admission.gate.clone(),
            leases,
            observation,
            price: order.price,
            most: order.most,
            prompt_bytes: order.prompt_bytes,
            label: order.label,
            admitted,
            event: order.bound,
            earlier_attempts: Vec::new(),
            sent_earlier: false,
            facts: Facts::default(),
            sent: false,
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
        let usage = pricing::plausible(self.usage_of_failure(error));
        let mut row = self.event.clone();
        row.outcome = Outcome::Failed;
        row.error = Some(Cow::Borrowed(error.kind.as_str()));
        row.usage = usage;
        row.usage_source = self.source();
        row.cost = self.cost_of(Outcome::Failed, &usage);
        row.total_ms = Some(self.elapsed_ms());
        self.earlier_attempts.push(row);
        self.event.attempt = self.event.attempt.saturating_add(1);
        self.sent = false;
    }

    /// Holds the limits of a further credential as well.
    pub(super) async fn extend(&mut self, scope: ScopeLimits) -> Result<(), Failure> {
        self.leases.reserve(&[scope], self.event.operation, self.most).await.map(|_| ())
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

    /// Settles a request that a provider, or we, could not finish.
    pub(super) fn settle_failure(&mut self, error: &ProviderError) {
        if !error.request_was_sent {
            self.sent = false;
        }
        let usage = self.usage_of_failure(error);
        self.settle(Outcome::Failed, Some(error.kind.as_str()), usage, self.source());
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

    fn checkpoint(&self) {
        let usage = pricing::plausible(self.observed());
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
            // The bytes of an image are no measure of its tokens: never more than what was reserved.
            input: counting::estimate(self.prompt_bytes).min(self.event.usage.input),
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
        let usage = pricing::plausible(usage);
        let cost = self.cost_of(outcome, &usage);
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
        self.leases.settle(u64::from(self.sent || self.sent_earlier), events);
        let cost = self.event.price_version.map(|_| cost);
        self.observation.ended(outcome, error, usage, source, cost);
    }

    /// Nothing for a request that a provider refused; else also what a request costs without any token.
    fn cost_of(&self, outcome: Outcome, usage: &TokenUsage) -> PicoUsd {
        let charged = outcome == Outcome::Success || *usage != TokenUsage::default();
        if charged { pricing::cost(self.price.as_deref(), usage) } else { PicoUsd::ZERO }
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

/// Counts the usage of a stream that reported none.
pub(super) type CountStream =
    Box<dyn FnOnce(Vec<Bytes>) -> Pin<Box<dyn Future<Output = Result<TokenUsage, CountError>> + Send>> + Send>;

/// Frames kept in case they have to be counted; more than this and the count is an estimate.
const MOST_KEPT_BYTES: usize = 256 * 1024;

/// A provider's stream, metered. Pulled: it reads no further than the client does. Dropping it drops the upstream call first,
/// then settles.
pub(super) struct MeteredStream {
    inner: FrameStream,
    meter: Meter,
    frames_since_checkpoint: u32,
    last_checkpoint: Duration,
    /// When the stream was last left to the provider, or to the client.
    left_at: Duration,
    /// `None`: the provider is known to report usage, or the reply grew too long to keep.
    kept: Option<Kept>,
    /// Whether the provider's last complete stream reported its usage.
    reports_usage: Arc<AtomicBool>,
    /// The last frame, held back while its reply is being counted.
    counting: Option<Counting>,
    ended: bool,
}

struct Kept {
    frames: Vec<Bytes>,
    bytes: usize,
    count: CountStream,
}

struct Counting {
    last: Frame,
    count: Pin<Box<dyn Future<Output = Result<TokenUsage, CountError>> + Send>>,
}

impl MeteredStream {
    pub(super) fn new(inner: FrameStream, meter: Meter, reports_usage: Arc<AtomicBool>) -> Self {
        let now = meter.monotonic();
        Self {
            inner,
            meter,
            frames_since_checkpoint: 0,
            last_checkpoint: now,
            left_at: now,
            kept: None,
            reports_usage,
            counting: None,
            ended: false,
        }
    }

    /// Keeps the frames, so that they can be counted if the provider reports no usage.
    pub(super) fn counted_by(mut self, count: CountStream) -> Self {
        self.kept = Some(Kept { frames: Vec::new(), bytes: 0, count });
        self
    }

    fn keep(&mut self, bytes: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        kept.bytes = kept.bytes.saturating_add(bytes.len());
        if kept.bytes > MOST_KEPT_BYTES {
            self.kept = None;
        } else {
            kept.frames.push(bytes.clone());
        }
    }

    fn checkpoint_if_due(&mut self, now: Duration) {
        self.frames_since_checkpoint += 1;
        let due = now.saturating_sub(self.last_checkpoint) >= CHECKPOINT_EVERY;
        if due || self.frames_since_checkpoint >= CHECKPOINT_FRAMES {
            self.frames_since_checkpoint = 0;
            self.last_checkpoint = now;
            self.meter.checkpoint();
        }
    }

    /// The reply is complete: settles before its last frame is released.
    fn finish(&mut self, last: Frame, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        let reported = self.meter.facts.usage.is_some();
        if self.reports_usage.load(Ordering::Relaxed) != reported {
            self.reports_usage.store(reported, Ordering::Relaxed);
        }
        if let Some(kept) = self.kept.take().filter(|_| !reported) {
            self.counting = Some(Counting { last, count: (kept.count)(kept.frames) });
            return self.poll_counting(context);
        }
        self.meter.settle_success(None);
        self.ended = true;
        Poll::Ready(Some(Ok(last)))
    }

    fn poll_counting(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        let Some(counting) = &mut self.counting else { return Poll::Ready(None) };
        let counted = ready!(counting.count.as_mut().poll(context));
        if let Err(error) = &counted {
            tracing::warn!(error = error as &dyn std::error::Error, "a reply without usage could not be counted");
        }
        self.meter.settle_success(counted.ok());
        self.ended = true;
        Poll::Ready(self.counting.take().map(|counting| Ok(counting.last)))
    }
}

impl Stream for MeteredStream {
    type Item = Result<Frame, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let now = this.meter.monotonic();
        this.meter.waited_upstream(now.saturating_sub(this.left_at));
        let polled = this.poll_frame(now, context);
        this.left_at = this.meter.monotonic();
        polled
    }
}

impl MeteredStream {
    fn poll_frame(&mut self, now: Duration, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        if self.counting.is_some() {
            return self.poll_counting(context);
        }
        let error = match ready!(self.inner.as_mut().poll_next(context)) {
            Some(Ok(frame)) => {
                self.meter.first_byte();
                self.meter.absorb(&frame.facts);
                self.keep(&frame.bytes);
                if frame.facts.done {
                    return self.finish(frame, context);
                }
                self.checkpoint_if_due(now);
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Err(error)) => error,
            // The port promises `done` or an error; an end without either is a cut stream.
            None => ProviderError::new(ProviderErrorKind::Protocol),
        };
        self.ended = true;
        self.meter.settle_failure(&error);
        Poll::Ready(Some(Err(error)))
    }
}
