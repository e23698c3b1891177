//! Calling a provider. The only place that can, and only with an [`Admitted`].

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use ai4free_ports::{
    catalogue::OnDisconnect,
    error::{ProviderError, ProviderErrorKind},
    llm_provider::{Call, CredentialInfo, Deadlines, FrameStream, LlmProvider, Reply},
    request::{Edits, InboundRequest},
    runtime::{Timestamp, TokenCounter},
    usage::Encoding,
};
use bytes::Bytes;

use crate::application::{
    admission::Admitted,
    bounds::Bounds,
    drains::Drains,
    failure::Failure,
    metering::Meter,
    policy::credential_scope,
    routing::Candidate,
    serving::{DrainedCall, Serving},
    standing::LimitHeaders,
};

/// However many credentials there are: each attempt has a row, and a ledger takes the rows of a request at once, 500 at most.
const MOST_ATTEMPTS: usize = 100;

/// One configured provider, in the two ways in which it is called.
pub struct Upstream {
    pub provider: Arc<dyn LlmProvider>,
    /// The same upstream over the crossing lane, for `/v1/uptime`.
    pub probe: Arc<dyn LlmProvider>,
    pub deadlines: Deadlines,
}

/// All providers. The field is private: no other use-case can reach one.
pub struct Upstreams {
    by_id: HashMap<Arc<str>, Entry>,
    drains: Option<Arc<Drains>>,
}

struct Entry {
    upstream: Upstream,
    /// Learnt from its last stream: then frames need not be kept for counting.
    reports_stream_usage: Arc<AtomicBool>,
}

/// How the provider is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Client,
    Probe,
}

/// Everything about a call that does not depend on who is admitted.
pub struct Plan<'a> {
    pub request: InboundRequest,
    pub candidates: Vec<Candidate<'a>>,
    /// Sent when it is not what the client said.
    pub output_cap: Option<u64>,
    pub encoding: Encoding,
    pub on_disconnect: OnDisconnect,
    /// What is reserved.
    pub bounds: Bounds,
    pub lane: Lane,
}

/// What the client gets.
pub enum Answer {
    Whole { body: Bytes, limits: LimitHeaders },
    Stream { frames: FrameStream, limits: LimitHeaders },
}

impl Upstreams {
    #[must_use]
    pub fn new(upstreams: impl IntoIterator<Item = (Arc<str>, Upstream)>) -> Self {
        let entry = |upstream| Entry { upstream, reports_stream_usage: Arc::default() };
        Self { by_id: upstreams.into_iter().map(|(id, upstream)| (id, entry(upstream))).collect(), drains: None }
    }

    /// Calls for models that say so go on to their end when their client has gone. Otherwise all are cancelled then.
    #[must_use]
    pub fn draining(self, drains: Arc<Drains>) -> Self {
        Self { drains: Some(drains), ..self }
    }

    /// Index, description and rest of each credential of a provider; nothing for a provider that is switched off.
    pub fn credentials(&self, provider: &str) -> impl Iterator<Item = (usize, &CredentialInfo, Option<Timestamp>)> {
        self.by_id.get(provider).into_iter().flat_map(|entry| {
            let provider = &entry.upstream.provider;
            provider.credentials().iter().enumerate().map(|(i, info)| (i, info, provider.resting_until(i)))
        })
    }

    /// Tries the candidates in turn, each once, until one answers. Before the first byte is sent to the client only.
    ///
    /// # Errors
    /// The last provider's error, when no candidate answered.
    pub async fn attempt(
        &self,
        admitted: Admitted,
        plan: Plan<'_>,
        counter: &Arc<dyn TokenCounter>,
    ) -> Result<Answer, Failure> {
        let (mut meter, limits) = admitted.into_parts();
        let mut last: Option<ProviderError> = None;
        for candidate in plan.candidates.iter().take(MOST_ATTEMPTS) {
            let Some(entry) = self.by_id.get(&candidate.target.provider) else { continue };
            if let Some(error) = last.take() {
                if meter.extend(credential_scope(candidate.info)).await.is_err() {
                    last = Some(error); // this credential is at its limit: the next one
                    continue;
                }
                meter.attempt_failed(&error);
            }
            let serving = self.serving(entry, &plan, counter);
            let reply;
            (reply, meter) = call(entry, candidate, &plan, meter, &serving).await;
            match reply {
                Ok(Reply::Whole { body, facts }) => {
                    serving.whole(&mut meter, &body, &facts).await;
                    return Ok(Answer::Whole { body, limits });
                }
                Ok(Reply::Stream(frames)) => {
                    return Ok(Answer::Stream { frames: Box::pin(serving.stream(frames, meter)), limits });
                }
                Err(error) => {
                    let again = error.try_next_credential;
                    last = Some(error);
                    if !again {
                        break;
                    }
                }
            }
        }
        let error = last.unwrap_or_else(|| ProviderError::new(ProviderErrorKind::Transport));
        meter.settle_failure(&error);
        Err(Failure::Provider(error))
    }

    fn serving(&self, entry: &Entry, plan: &Plan<'_>, counter: &Arc<dyn TokenCounter>) -> Serving {
        Serving {
            request: plan.request.clone(),
            encoding: plan.encoding,
            bounds: plan.bounds,
            counter: counter.clone(),
            reports_stream_usage: entry.reports_stream_usage.clone(),
            drains: self.drains.clone().filter(|_| plan.on_disconnect == OnDisconnect::Drain),
        }
    }
}

async fn call(
    entry: &Entry,
    candidate: &Candidate<'_>,
    plan: &Plan<'_>,
    mut meter: Meter,
    serving: &Serving,
) -> (Result<Reply, ProviderError>, Meter) {
    let provider = match plan.lane {
        Lane::Client => &entry.upstream.provider,
        Lane::Probe => &entry.upstream.probe,
    };
    let edits = Edits {
        model: candidate.target.upstream_model.clone(),
        output_cap: plan.output_cap,
        output_cap_field: None,
        ask_for_usage: true,
    };
    let call = Call {
        id: meter.request(),
        request: plan.request.clone(),
        edits: Arc::new(edits),
        credential: candidate.credential,
        deadlines: entry.upstream.deadlines,
    };
    meter.attempt(&candidate.target.provider, &candidate.info.id);
    let started = meter.monotonic();
    let (reply, mut meter) = match &serving.drains {
        None => (provider.call(call).await, meter),
        Some(drains) => {
            let provider = provider.clone();
            let reply = Box::pin(async move { provider.call(call).await });
            DrainedCall::new(reply, meter, serving.clone(), drains.clone()).await
        }
    };
    meter.waited_upstream(meter.monotonic().saturating_sub(started));
    if let Err(error) = &reply {
        tracing::info!(
            request = %meter.request(),
            provider = &*candidate.target.provider,
            credential = &*candidate.info.id,
            kind = error.kind.as_str(),
            status = error.status,
            error = error as &dyn std::error::Error,
            "attempt failed"
        );
    }
    (reply, meter)
}
