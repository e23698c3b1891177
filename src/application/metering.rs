//! Metering what a request uses, and settling it exactly once, however it ends.
//!
//! On a normal end the settlement is in the journal before the last bytes are released; on every other end (error, client
//! gone, panic, timeout) the meter's `Drop` writes it, synchronously.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::Arc,
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
    admission::{Held, Order, Used},
    counting,
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
    held: Held,
    observation: Observation,
    price: Option<Arc<Price>>,
    reserved_tokens: u64,
    prompt_bytes: u64,
    /// The name of the model in the rows of requests that no provider served: a client can't fill the ledger with names.
    label: Arc<str>,
    admitted: Duration,
    /// The bound that was journalled; becomes the final event.
    event: UsageEvent,
    earlier_attempts: Vec<UsageEvent>,
    facts: Facts,
    /// Whether the provider may have begun to work: only then is anything charged on an interruption.
    sent: bool,
    open: bool,
}

impl Meter {
    pub(super) fn opened(
        journal: Arc<dyn UsageJournal>,
        clock: Arc<dyn Clock>,
        held: Held,
        order: Order,
        observation: Observation,
    ) -> Self {
        let admitted = clock.monotonic();
        Self {
            journal,
            clock,
            held,
            observation,
            price: order.price,
            reserved_tokens: order.tokens,
            prompt_bytes: order.prompt_bytes,
            label: order.label,
            admitted,
            event: order.bound,
            earlier_attempts: Vec::new(),
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
        self.observation.attempt(provider, credential);
        self.sent = true;
    }

    /// The attempt failed and another will follow: it gets a row of its own, without a charge.
    pub(super) fn attempt_failed(&mut self, error: &ProviderError) {
        let mut row = self.event.clone();
        row.outcome = Outcome::Failed;
        row.error = Some(Cow::Borrowed(error.kind.as_str()));
        row.usage = TokenUsage::default();
        row.usage_source = UsageSource::Provider;
        row.cost = PicoUsd::ZERO;
        row.total_ms = Some(self.elapsed_ms());
        self.earlier_attempts.push(row);
        self.event.attempt = self.event.attempt.saturating_add(1);
        self.sent = false;
    }

    /// Holds the limits of a further credential as well.
    pub(super) async fn extend(&mut self, scope: ScopeLimits) -> Result<(), crate::application::failure::Failure> {
        self.held.extend(scope, self.event.operation, self.reserved_tokens, self.event.request).await
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
        let usage = if self.sent && !self.refused_by_provider(error) { self.observed() } else { TokenUsage::default() };
        self.settle(Outcome::Failed, Some(error.kind.as_str()), usage, self.source());
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
            input: counting::estimate(self.prompt_bytes),
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
        let charged = outcome == Outcome::Success || usage != TokenUsage::default();
        let cost = if charged { pricing::cost(self.price.as_deref(), &usage) } else { PicoUsd::ZERO };
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
        let mut events = std::mem::take(&mut self.earlier_attempts);
        events.push(self.event.clone());
        self.journal.close(self.event.request, &events);
        let used = Used { requests: u64::from(self.sent), tokens: usage.total() };
        self.held.settle(used);
        let cost = self.event.price_version.map(|_| cost);
        self.observation.ended(outcome, error, usage, source, cost);
    }

    fn elapsed_ms(&self) -> u32 {
        u32::try_from(self.clock.monotonic().saturating_sub(self.admitted).as_millis()).unwrap_or(u32::MAX)
    }
}

/// However else a request ends: the client went away, a deadline dropped it, something panicked.
impl Drop for Meter {
    fn drop(&mut self) {
        if self.open {
            let usage = if self.sent { self.observed() } else { TokenUsage::default() };
            self.settle(Outcome::Cancelled, None, usage, self.source());
        }
    }
}

/// Counts the usage of a stream that reported none.
pub(super) type CountStream =
    Box<dyn Fn(Vec<Bytes>) -> Pin<Box<dyn Future<Output = Result<TokenUsage, CountError>> + Send>> + Send>;

/// Frames kept in case they have to be counted; more than this and the count is an estimate.
const MOST_KEPT_BYTES: usize = 256 * 1024;

/// A provider's stream, metered. Pulled: it reads no further than the client does. Dropping it drops the upstream call first,
/// then settles.
pub(super) struct MeteredStream {
    inner: FrameStream,
    meter: Meter,
    frames_since_checkpoint: u32,
    last_checkpoint: Duration,
    /// `None`: the provider is known to report usage, or the reply grew too long to keep.
    kept: Option<Kept>,
    on_usage_reported: Option<Box<dyn FnOnce() + Send>>,
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
    pub(super) fn new(inner: FrameStream, meter: Meter) -> Self {
        let last_checkpoint = meter.monotonic();
        Self {
            inner,
            meter,
            frames_since_checkpoint: 0,
            last_checkpoint,
            kept: None,
            on_usage_reported: None,
            counting: None,
            ended: false,
        }
    }

    /// Keeps the frames, so that they can be counted if the provider reports no usage; `on_reported` hears if it does.
    pub(super) fn counted_by(mut self, count: CountStream, on_reported: Box<dyn FnOnce() + Send>) -> Self {
        self.kept = Some(Kept { frames: Vec::new(), bytes: 0, count });
        self.on_usage_reported = Some(on_reported);
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

    fn checkpoint_if_due(&mut self) {
        self.frames_since_checkpoint += 1;
        let now = self.meter.monotonic();
        let due = now.saturating_sub(self.last_checkpoint) >= CHECKPOINT_EVERY;
        if due || self.frames_since_checkpoint >= CHECKPOINT_FRAMES {
            self.frames_since_checkpoint = 0;
            self.last_checkpoint = now;
            self.meter.checkpoint();
        }
    }

    /// The reply is complete: settles before its last frame is released.
    fn finish(&mut self, last: Frame, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        if self.meter.facts.usage.is_some() {
            if let Some(reported) = self.on_usage_reported.take() {
                reported();
            }
        } else if let Some(kept) = self.kept.take() {
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
        if this.counting.is_some() {
            return this.poll_counting(context);
        }
        if this.ended {
            return Poll::Ready(None);
        }
        match ready!(this.inner.as_mut().poll_next(context)) {
            Some(Ok(frame)) => {
                this.meter.first_byte();
                this.meter.absorb(&frame.facts);
                this.keep(&frame.bytes);
                if frame.facts.done {
                    return this.finish(frame, context);
                }
                this.checkpoint_if_due();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.ended = true;
                this.meter.settle_failure(&error);
                Poll::Ready(Some(Err(error)))
            }
            // The port promises `done` or an error; an end without either is a cut stream.
            None => {
                this.ended = true;
                let error = ProviderError::new(ProviderErrorKind::Protocol);
                this.meter.settle_failure(&error);
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}
