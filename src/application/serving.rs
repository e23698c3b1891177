//! What is made of a provider's reply: for the client, or without one when it has left before there was any.

use std::{
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
    error::ProviderError,
    llm_provider::{Facts, FrameStream, Reply},
    request::InboundRequest,
    runtime::TokenCounter,
    usage::{Encoding, TokenUsage},
};
use futures_util::future::BoxFuture;

use crate::application::{
    bounds::Bounds, counting, drains::Drains, metered_stream::MeteredStream, metering::Meter,
    partial_reply::PartialReply, slices::Slices,
};

/// All that a reply has to be metered with.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) request: InboundRequest,
    pub(super) encoding: Encoding,
    /// What is reserved.
    pub(super) bounds: Bounds,
    pub(super) counter: Arc<dyn TokenCounter>,
    /// Learnt from the provider's last stream: then frames need not be kept for counting.
    pub(super) reports_stream_usage: Arc<AtomicBool>,
    /// `None`: a client that goes away ends the call.
    pub(super) drains: Option<Arc<Drains>>,
}

impl Serving {
    /// Settles a whole reply, before its body is released.
    pub(super) async fn whole(&self, meter: &mut Meter, body: &[u8], facts: &Facts) {
        meter.first_byte();
        meter.absorb(facts);
        let counted = match facts.usage {
            Some(_) => None,
            None => self.count(body).await,
        };
        meter.settle_success(counted);
        meter.written().await;
    }

    pub(super) fn stream(&self, frames: FrameStream, meter: Meter) -> MeteredStream {
        let mut stream = MeteredStream::new(frames, meter, self.reports_stream_usage.clone());
        if let Some(drains) = &self.drains {
            stream = stream.drained_by(drains.clone());
        }
        if self.bounds.first_output < self.bounds.output {
            let reply = PartialReply::new(self.counter.clone(), self.encoding, self.request.clone());
            stream = stream.sliced(Slices::new(self.bounds.first_output, self.bounds.output, reply));
        }
        if self.reports_stream_usage.load(Ordering::Relaxed) {
            return stream;
        }
        let (counter, encoding, request) = (self.counter.clone(), self.encoding, self.request.clone());
        stream.counted_by(Box::new(move |frames| {
            Box::pin(async move { counting::stream_usage(&counter, encoding, &request, &frames).await })
        }))
    }

    async fn count(&self, body: &[u8]) -> Option<TokenUsage> {
        let counted = counting::reply_usage(&self.counter, self.encoding, &self.request, body).await;
        counted
            .inspect_err(|error| {
                tracing::warn!(error = error as &dyn std::error::Error, "a reply without usage could not be counted");
            })
            .ok()
    }
}

/// A call that is waited for. If it is not any more, before there is a reply, what becomes of it is [drained](Drains).
pub(super) struct DrainedCall {
    /// `None` once there is a reply.
    waiting: Option<Waiting>,
    drains: Arc<Drains>,
}

/// The call is dropped before the meter, which settles.
struct Waiting {
    reply: BoxFuture<'static, Result<Reply, ProviderError>>,
    meter: Meter,
    serving: Serving,
    since: Duration,
}

impl DrainedCall {
    pub(super) fn new(
        reply: BoxFuture<'static, Result<Reply, ProviderError>>,
        meter: Meter,
        serving: Serving,
        drains: Arc<Drains>,
    ) -> Self {
        let since = meter.monotonic();
        Self { waiting: Some(Waiting { reply, meter, serving, since }), drains }
    }
}

impl Future for DrainedCall {
    type Output = (Result<Reply, ProviderError>, Meter);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let reply = ready!(waiting.reply.as_mut().poll(context));
        self.waiting.take().map_or(Poll::Pending, |waiting| Poll::Ready((reply, waiting.meter)))
    }
}

impl Drop for DrainedCall {
    fn drop(&mut self) {
        let Some(mut waiting) = self.waiting.take() else { return };
        if waiting.meter.is_cut() {
            return;
        }
        waiting.meter.client_left();
        self.drains.take(waiting.end());
    }
}

impl Waiting {
    /// Waits on without a client. No other provider is tried: nobody would have its answer.
    async fn end(mut self) {
        let reply = self.reply.as_mut().await;
        let Self { mut meter, serving, since, .. } = self;
        meter.waited_upstream(meter.monotonic().saturating_sub(since));
        match reply {
            Ok(Reply::Whole { body, facts }) => serving.whole(&mut meter, &body, &facts).await,
            Ok(Reply::Stream(frames)) => serving.stream(frames, meter).read_on().await,
            Err(error) => meter.settle_failure(&error),
        }
    }
}
