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
use futures_util::{future::BoxFuture, stream};

use crate::application::{
    drains::Drains,
    metering::Meter,
    slices::{Sent, Slices, Verdict},
};

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

    /// Sends no more than what is reserved, slice by slice.
    pub(super) fn sliced(mut self, slices: Slices) -> Self {
        if let Some(reading) = &mut self.reading {
            reading.slices = Some(slices);
        }
        self
    }

    /// Is read to its end also when its client has gone.
    pub(super) fn drained_by(mut self, drains: Arc<Drains>) -> Self {
        self.drains = Some(drains);
        self
    }

    /// Reads on without a client, who has left already, no further than what was reserved.
    pub(super) async fn read_on(mut self) {
        if let Some(reading) = self.reading.take() {
            reading.read_on().await;
        }
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
        if reading.ended || reading.releasing.is_some() || reading.meter.is_cut() {
            return;
        }
        reading.meter.client_left();
        drains.take(reading.read_on());
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
    /// `None`: all that the reply may have is reserved.
    slices: Option<Slices>,
    /// Read, and not sent before it is reserved.
    held_back: Option<Frame>,
    /// The last frame, held back while its reply is being counted.
    counting: Option<Counting>,
    /// The last frame of what is settled, held back until that is written.
    releasing: Option<Releasing>,
    ended: bool,
}

struct Kept {
    frames: Vec<Bytes>,
    bytes: usize,
    count: CountStream,
}

struct Counting {
    last: Last,
    count: Pin<Box<dyn Future<Output = Result<TokenUsage, CountError>> + Send>>,
}

struct Releasing {
    last: Frame,
    written: BoxFuture<'static, ()>,
}

enum Last {
    /// The provider's.
    Frame(Frame),
    /// Ours, of a reply that was ended where what could be reserved for it ended.
    Ceiling(Sent),
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
            slices: None,
            held_back: None,
            counting: None,
            releasing: None,
            ended: false,
        }
    }

    /// Reads on without a client, no further than what was reserved.
    async fn read_on(mut self) {
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
        // Where nothing came, nothing was done either: it need not be asked what time it is.
        self.left_at = if polled.is_ready() { self.meter.monotonic() } else { now };
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
            self.counting = Some(Counting { last: Last::Frame(last), count: (kept.count)(kept.frames) });
            return self.poll_counting(context);
        }
        self.meter.settle_success(None);
        self.release(last, context)
    }

    fn release(&mut self, last: Frame, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        self.releasing = Some(Releasing { last, written: self.meter.written() });
        self.poll_releasing(context)
    }

    fn poll_releasing(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        if let Some(releasing) = &mut self.releasing {
            ready!(releasing.written.as_mut().poll(context));
        }
        self.ended = true;
        Poll::Ready(self.releasing.take().map(|releasing| Ok(releasing.last)))
    }

    fn poll_counting(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        let Some(counting) = &mut self.counting else { return Poll::Ready(None) };
        let counted = ready!(counting.count.as_mut().poll(context));
        if let Err(error) = &counted {
            tracing::warn!(error = error as &dyn std::error::Error, "a reply without usage could not be counted");
        }
        let Some(Counting { last, .. }) = self.counting.take() else { return Poll::Ready(None) };
        let last = match last {
            Last::Frame(frame) => {
                self.meter.settle_success(counted.ok());
                frame
            }
            Last::Ceiling(sent) => {
                let input = counted.ok().map(|prompt| prompt.input);
                sent.reply.ending(self.meter.settle_ceiling(input, sent.tokens))
            }
        };
        self.release(last, context)
    }

    fn poll_frame(&mut self, now: Duration, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        if self.releasing.is_some() {
            return self.poll_releasing(context);
        }
        if self.counting.is_some() {
            return self.poll_counting(context);
        }
        let error = match ready!(self.poll_reserved(context)) {
            Next::Read(Some(Ok(frame))) => {
                self.meter.first_byte();
                self.meter.absorb(&frame.facts);
                self.keep(&frame.bytes);
                if frame.facts.done {
                    return self.finish(frame, context);
                }
                self.checkpoint_if_due(now);
                return Poll::Ready(Some(Ok(frame)));
            }
            Next::Over(sent) => return self.end_at_ceiling(sent, context),
            Next::Read(Some(Err(error))) => error,
            // The port promises `done` or an error; an end without either is a cut stream.
            Next::Read(None) => ProviderError::new(ProviderErrorKind::Protocol),
        };
        self.ended = true;
        self.meter.settle_failure(&error);
        Poll::Ready(Some(Err(error)))
    }

    /// The next frame, once what it holds is reserved.
    fn poll_reserved(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let Some(slices) = &mut self.slices else { return self.inner.as_mut().poll_next(context).map(Next::Read) };
        loop {
            slices.advance(&mut self.meter, context);
            let frame = match self.held_back.take() {
                Some(frame) => frame,
                None if slices.is_full() => return Poll::Pending,
                None => match ready!(self.inner.as_mut().poll_next(context)) {
                    Some(Ok(frame)) => frame,
                    end => return Poll::Ready(Next::Read(end)),
                },
            };
            match slices.admit(&frame, &mut self.meter) {
                Verdict::Send => {
                    slices.sent(&frame, &mut self.meter);
                    slices.advance(&mut self.meter, context); // what it has begun need not wait for the client
                    return Poll::Ready(Next::Read(Some(Ok(frame))));
                }
                Verdict::Wait => self.held_back = Some(frame),
                Verdict::Over => break,
            }
            if !slices.advance(&mut self.meter, context) {
                return Poll::Pending;
            }
        }
        let sent = self.slices.take().and_then(Slices::into_sent);
        Poll::Ready(sent.map_or(Next::Read(None), Next::Over))
    }

    /// Cancels the call, and ends the reply as at its cap.
    fn end_at_ceiling(&mut self, sent: Sent, context: &mut Context<'_>) -> Poll<Option<Result<Frame, ProviderError>>> {
        self.inner = Box::pin(stream::empty());
        let count = sent.reply.count_prompt();
        self.counting = Some(Counting { last: Last::Ceiling(sent), count });
        self.poll_counting(context)
    }
}

/// What comes after a frame.
enum Next {
    Read(Option<Result<Frame, ProviderError>>),
    /// Nothing: no more could be reserved.
    Over(Sent),
}
