//! A provider's stream on its way to the client, metered as it is pulled.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use ai4free_ports::{
    error::{CountError, ProviderError, ProviderErrorKind},
    llm_provider::{Frame, FrameStream},
    usage::TokenUsage,
};
use bytes::Bytes;
use futures_core::Stream;

use crate::application::{drains::Drains, metering::Meter};

/// A stream writes what it has used so far at least this often.
const CHECKPOINT_FRAMES: u32 = 64;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);

/// Counts the usage of a stream that reported none.
pub(super) type CountStream =
    Box<dyn FnOnce(Vec<Bytes>) -> Pin<Box<dyn Future<Output = Result<TokenUsage, CountError>> + Send>> + Send>;

/// Frames kept in case they have to be counted; more than this and the count is an estimate.
const MOST_KEPT_BYTES: usize = 256 * 1024;

/// A provider's stream, metered. Pulled: it reads no further than the client does. Dropping it before its end cancels the
/// upstream call and then settles, or leaves the rest to be [drained](Drains).
pub(super) struct MeteredStream {
    /// `None` while it is dropped.
    reading: Option<Reading>,
    /// `None`: a client that goes away ends the call.
    drains: Option<Arc<Drains>>,
}

impl MeteredStream {
    pub(super) fn new(inner: FrameStream, meter: Meter, reports_usage: Arc<AtomicBool>) -> Self {
        Self { reading: Some(Reading::new(inner, meter, reports_usage)), drains: None }
    }

    /// Keeps the frames, so that they can be counted if the provider reports no usage.
    pub(super) fn counted_by(mut self, count: CountStream) -> Self {
        if let Some(reading) = &mut self.reading {
            reading.kept = Some(Kept { frames: Vec::new(), bytes: 0, count });
        }
        self
    }

    /// Is read to its end also when its client has gone.
    pub(super) fn drained_by(mut self, drains: Arc<Drains>) -> Self {
        self.drains = Some(drains);
        self
    }
}

impl Stream for MeteredStream {
    type Item = Result<Frame, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.reading.as_mut().map_or(Poll::Ready(None), |reading| reading.poll_next(context))
    }
}

impl Drop for MeteredStream {
    fn drop(&mut self) {
        let (Some(mut reading), Some(drains)) = (self.reading.take(), &self.drains) else { return };
        if reading.ended || reading.meter.is_cut() {
            return;
        }
        reading.meter.client_left();
        drains.take(reading.to_end());
    }
}

/// The stream itself, whoever it is read for. The call is dropped before the meter, which settles.
struct Reading {
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

impl Reading {
    fn new(inner: FrameStream, meter: Meter, reports_usage: Arc<AtomicBool>) -> Self {
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

    /// Reads on without a client, no further than what was reserved.
    async fn to_end(mut self) {
        while let Some(Ok(_)) = poll_fn(|context| self.poll_next(context)).await {
            if self.meter.exceeds_bound() {
                return;
            }
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let now = self.meter.monotonic();
        self.meter.waited_upstream(now.saturating_sub(self.left_at));
        let polled = self.poll_frame(now, context);
        self.left_at = self.meter.monotonic();
        polled
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
        let reported = self.meter.has_usage();
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
