//! Output that is reserved a slice at a time, so that a client with a high cap need not have all of it free at once.
//!
//! What was received counts as one token a byte, which it can't exceed. When half of the last slice is left, another is asked
//! for, while the stream goes on; nothing is sent that is not held. Once a slice has been refused, what was received is
//! counted by the tokenizer instead, then the frame that waits; when that does not fit either, the reply is ended as at its cap.
//!
//! ```text
//! roomy ── half used ──▶ asking ── granted ──▶ roomy … until the whole cap is held
//!                          └── refused ──▶ refused ── used up ──▶ counting ──▶ refused ── used up ──▶ over
//! ```

use std::task::{Context, Poll};

use ai4free_ports::{
    catalogue::{Model, ModelKind},
    error::CountError,
    llm_provider::Frame,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use crate::application::{leases::ToppingUp, metering::Meter, partial_reply::PartialReply};

/// Tokens.
pub(super) const SLICE: u64 = 4096;
/// Tokens that a provider counts and that are in no delta: of the format, and what it makes until it sees that we are gone.
const MARGIN: u64 = 256;
/// Frames that are kept to be counted. When there are more they are counted at once.
const MOST_KEPT_BYTES: usize = 256 * 1024;

/// Whether output of a model may be reserved in slices: all of it has to be seen in its stream.
pub(super) fn can_be_sliced(model: &Model) -> bool {
    model.kind == ModelKind::Chat && !model.hides_reasoning
}

pub(super) struct Slices {
    /// Tokens that are reserved.
    held: u64,
    /// The client's cap: the provider makes no more.
    whole: u64,
    /// Of what was sent: tokens of the part that was counted, and bytes of the rest.
    counted: u64,
    uncounted: u64,
    /// Whether every count so far succeeded.
    is_exact: bool,
    /// The rest itself.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Tokens of the frame that waits to be sent, if they were counted.
    waiting: Option<u64>,
    is_refused: bool,
    asking: Option<ToppingUp>,
    counting: Option<BoxFuture<'static, Counted>>,
    /// `None` while it is being counted.
    reply: Option<Box<PartialReply>>,
}

struct Counted {
    part: Part,
    reply: Box<PartialReply>,
    tokens: Result<u64, CountError>,
    /// What the tokens were counted as before.
    bytes: u64,
}

/// What of a reply is counted.
#[derive(Clone, Copy)]
enum Part {
    Sent,
    Waiting,
}

/// What becomes of the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// Something is under way that decides it.
    Wait,
    /// Nothing more may be sent.
    Over,
}

impl Slices {
    pub(super) fn new(held: u64, whole: u64, reply: PartialReply) -> Self {
        Self {
            held,
            whole,
            counted: 0,
            uncounted: 0,
            is_exact: true,
            kept: Vec::new(),
            kept_bytes: 0,
            waiting: None,
            is_refused: false,
            asking: None,
            counting: None,
            reply: Some(Box::new(reply)),
        }
    }

    /// Drives what is under way. Whether anything changed.
    pub(super) fn advance(&mut self, meter: &mut Meter, context: &mut Context<'_>) -> bool {
        let answered = self.asking.as_mut().map(|asking| asking.poll_unpin(context));
        if let Some(Poll::Ready(answer)) = answered {
            self.asking = None;
            match meter.topped_up(answer) {
                Some(tokens) => self.held = self.held.saturating_add(tokens),
                None => self.is_refused = true,
            }
            return true;
        }
        let counted = self.counting.as_mut().map(|counting| counting.poll_unpin(context));
        if let Some(Poll::Ready(Counted { part, reply, tokens, bytes })) = counted {
            self.counting = None;
            self.reply = Some(reply);
            self.is_exact &= tokens.is_ok();
            let tokens = tokens.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "a part of a reply could not be counted");
                bytes
            });
            match part {
                Part::Sent => {
                    self.uncounted = self.uncounted.saturating_sub(bytes);
                    self.counted = self.counted.saturating_add(tokens);
                }
                Part::Waiting => self.waiting = Some(tokens),
            }
            return true;
        }
        false
    }

    /// Whether so many frames wait to be counted that no more should be read.
    pub(super) fn is_full(&self) -> bool {
        self.kept_bytes > MOST_KEPT_BYTES && self.counting.is_some()
    }

    /// Whether a frame may be sent. If not yet, what decides it has been begun.
    pub(super) fn admit(&mut self, frame: &Frame, meter: &mut Meter) -> Verdict {
        let bytes = frame.facts.output_bytes;
        let used = self.used().saturating_add(bytes);
        if self.held >= self.whole || bytes == 0 {
            return Verdict::Send;
        }
        if !self.is_refused {
            if used <= self.held {
                return Verdict::Send;
            }
            self.ask(used, meter);
            return if self.held >= self.whole { Verdict::Send } else { Verdict::Wait };
        }
        let tokens = self.waiting.unwrap_or(bytes);
        if self.used().saturating_add(tokens).saturating_add(MARGIN) <= self.held {
            return Verdict::Send;
        }
        if self.uncounted > 0 {
            self.count_sent();
        } else if self.waiting.is_none() {
            self.count(Part::Waiting, vec![frame.bytes.clone()], bytes);
        } else {
            return Verdict::Over;
        }
        Verdict::Wait
    }

    pub(super) fn sent(&mut self, frame: &Frame, meter: &mut Meter) {
        if self.held >= self.whole {
            (self.kept, self.kept_bytes) = (Vec::new(), 0);
            return;
        }
        if let (Some(tokens), Some(reply)) = (self.waiting.take(), &mut self.reply) {
            self.counted = self.counted.saturating_add(tokens);
            reply.waiting_was_sent();
            return;
        }
        self.uncounted = self.uncounted.saturating_add(frame.facts.output_bytes);
        self.kept_bytes = self.kept_bytes.saturating_add(frame.bytes.len());
        self.kept.push(frame.bytes.clone());
        if self.kept_bytes > MOST_KEPT_BYTES {
            self.count_sent();
        }
        if !self.is_refused && self.used().saturating_add(SLICE / 2) >= self.held {
            self.ask(self.held.saturating_add(1), meter);
        }
    }

    /// What was sent. `None` while it is being counted.
    pub(super) fn into_sent(self) -> Option<Sent> {
        let is_counted = self.is_exact && self.uncounted == 0;
        Some(Sent { reply: self.reply?, tokens: is_counted.then_some(self.counted) })
    }

    /// An upper bound.
    fn used(&self) -> u64 {
        self.counted.saturating_add(self.uncounted)
    }

    /// Asks for as many slices as it takes to hold `tokens`.
    fn ask(&mut self, tokens: u64, meter: &mut Meter) {
        if self.asking.is_some() {
            return;
        }
        let lacking = tokens.saturating_sub(self.held).div_ceil(SLICE).saturating_mul(SLICE);
        let lacking = lacking.min(self.whole.saturating_sub(self.held));
        match meter.top_up(lacking) {
            Some(asking) => self.asking = Some(asking),
            None => self.held = self.whole, // nothing limits it any more
        }
    }

    fn count_sent(&mut self) {
        if self.reply.is_some() {
            let frames = std::mem::take(&mut self.kept);
            self.kept_bytes = 0;
            self.count(Part::Sent, frames, self.uncounted);
        }
    }

    fn count(&mut self, part: Part, frames: Vec<Bytes>, bytes: u64) {
        let Some(mut reply) = self.reply.take() else { return };
        self.counting = Some(Box::pin(async move {
            let tokens = match part {
                Part::Sent => reply.count_sent(&frames).await,
                Part::Waiting => reply.count_waiting(&frames).await,
            };
            Counted { part, reply, tokens, bytes }
        }));
    }
}

/// What was sent of a reply that is over.
pub(super) struct Sent {
    pub(super) reply: Box<PartialReply>,
    /// `None`: not all of it could be counted.
    pub(super) tokens: Option<u64>,
}
