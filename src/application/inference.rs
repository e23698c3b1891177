//! What every operation on a model has in common: from an authenticated request to a metered answer.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    catalogue::{Catalogue, Model, Price},
    dialect::Dialect,
    error::RequestError,
    money::PicoUsd,
    rate_limiter::LimitKind,
    request::{InboundRequest, Operation, RequestId, RequestView},
    runtime::{Clock, RequestObserver, TokenCounter},
    usage::{TokenUsage, UsageSource},
    usage_ledger::{EventKind, Outcome, UsageEvent},
};
use bytes::Bytes;

use crate::application::{
    admission::{Admission, Admitted, NotAdmitted, Order},
    attempt::{Answer, Lane, Plan, Upstreams},
    authentication::Principal,
    bounds::{self, Bounds},
    counting,
    failure::{Failure, Unavailable},
    observation::Observation,
    policy::{self, Party, Policy, PolicySource},
    pricing, routing,
};

/// A request as it came in, with who sends it.
pub struct Inbound {
    pub id: RequestId,
    /// [`Clock::monotonic`] when its head had been read.
    pub arrived: Duration,
    pub principal: Principal,
    pub operation: Operation,
    /// The protocol that the client speaks.
    pub dialect: Arc<dyn Dialect>,
    pub body: Bytes,
}

impl Inbound {
    /// The request as the gateway looks at it: the same bytes, with what was found in them.
    pub(super) fn viewed(&self, view: RequestView) -> InboundRequest {
        InboundRequest {
            operation: self.operation,
            dialect: self.dialect.clone(),
            body: self.body.clone(),
            view: Arc::new(view),
        }
    }
}

pub struct Inference {
    pub catalogue: Arc<dyn Catalogue>,
    pub policy: Arc<dyn PolicySource>,
    pub upstreams: Upstreams,
    pub admission: Admission,
    pub counter: Arc<dyn TokenCounter>,
    pub observer: Arc<dyn RequestObserver>,
    pub clock: Arc<dyn Clock>,
}

/// What an operation asks of a model before it is admitted.
pub struct Accepted {
    pub request: InboundRequest,
    pub model: Arc<Model>,
}

impl Inference {
    /// `accept` reads the request as its operation means it: view, model, what is allowed.
    ///
    /// # Errors
    /// Every [`Failure`] but those of key administration.
    pub async fn run(
        &self,
        inbound: Inbound,
        lane: Lane,
        accept: impl FnOnce(&Inbound) -> Result<Accepted, Failure> + Send,
    ) -> Result<Answer, Failure> {
        let (observer, clock) = (self.observer.clone(), self.clock.clone());
        let mut observation = Observation::start(observer, clock, inbound.id, inbound.operation, inbound.arrived);
        observation.key(&inbound.principal.key().id);
        let accepted = accept(&inbound).and_then(|accepted| {
            observation.streamed(accepted.request.view.stream);
            observation.model(&accepted.model);
            check_output_limit(&accepted)?;
            Ok(accepted)
        });
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(failure) => return Err(refuse(observation, failure)),
        };
        let policy = self.policy.current();
        if let Err(failure) = self.check_input_limit(&accepted, &policy).await {
            return Err(refuse(observation, failure));
        }
        let candidates = routing::candidates(&accepted.model, &self.upstreams, self.clock.now());
        let Some(first) = candidates.first() else {
            return Err(refuse(observation, Failure::ModelDisabled { model: accepted.model.id.to_string() }));
        };
        let party = Party { key: inbound.principal.key(), model: &accepted.model, credential: first.info };
        let Some(scopes) = policy.scopes(&party) else {
            return Err(refuse(observation, Failure::unavailable(Unavailable::Plan)));
        };
        // A later candidate's credential may limit what the first one's does not.
        let of_credentials = || candidates.iter().map(|candidate| &candidate.info.limits);
        let has_budget = policy::limits_money(&scopes) || of_credentials().any(|limits| limits.budget.is_some());
        if has_budget && accepted.request.view.has_server_tools {
            return Err(refuse(observation, server_tools_unpriced().into()));
        }
        let must_know = policy::limits_tokens(&scopes)
            || has_budget
            || of_credentials().any(|limits| limits.tokens_per_minute.is_some());
        let cap = output_cap(&accepted, inbound.principal.key().max_output_tokens, &policy, must_know);
        let bounds = Bounds::of(&accepted.request, &accepted.model, cap, must_know, &policy);
        let order = Order {
            operation: inbound.operation,
            bounds,
            bound: self.bound(&inbound, &accepted, &bounds),
            price: accepted.model.price.clone(),
            label: accepted.model.label.clone(),
            first_credential: Some(first.info.id.clone()),
            prompt_bytes: byte_count(&accepted.request.body),
            scopes,
        };
        let admitted = self.admit(order, observation, &accepted).await?;
        let plan = Plan {
            request: accepted.request,
            candidates,
            output_cap: cap.filter(|_| inbound.operation == Operation::Chat),
            encoding: accepted.model.encoding,
            on_disconnect: accepted.model.on_disconnect,
            bounds,
            lane,
        };
        self.upstreams.attempt(admitted, plan, &self.counter).await
    }

    /// At the cheap byte bound first; where that does not decide, once more at the exact count.
    async fn admit(&self, order: Order, observation: Observation, accepted: &Accepted) -> Result<Admitted, Failure> {
        let refused = match self.admission.admit(order, observation).await {
            Ok(admitted) => return Ok(admitted),
            Err(refused) => *refused,
        };
        let NotAdmitted { failure, untouched: Some((order, observation)) } = refused else {
            return Err(refused.failure);
        };
        let bound_decided = match &failure {
            Failure::LimitReached(limit) => limit.kind == LimitKind::Tokens,
            Failure::BudgetExhausted(_) => true,
            _ => false,
        };
        if !bound_decided || accepted.request.view.has_media || accepted.request.operation != Operation::Chat {
            return Err(refuse(observation, failure));
        }
        let Ok(exact) = counting::prompt_tokens(&self.counter, accepted.model.encoding, &accepted.request).await else {
            return Err(refuse(observation, failure));
        };
        let input = exact.saturating_add(bounds::overhead(&accepted.request));
        let bounds = Bounds { input, ..order.bounds };
        let bound = at_most(order.bound, &bounds, order.price.as_deref());
        let order = Order { bounds, bound, ..order };
        self.admission.admit(order, observation).await.map_err(|refused| match refused.untouched {
            Some((_, observation)) => refuse(observation, refused.failure),
            None => refused.failure,
        })
    }

    /// The whole event at what is reserved: what is charged if nobody can ever say how the request ended.
    fn bound(&self, inbound: &Inbound, accepted: &Accepted, bounds: &Bounds) -> UsageEvent {
        let price: Option<&Price> = accepted.model.price.as_deref();
        let key = inbound.principal.key();
        let event = UsageEvent {
            request: inbound.id,
            attempt: 0,
            kind: EventKind::Charge,
            revision: 0,
            operation: inbound.operation,
            key: key.id.clone(),
            user: key.user_id.clone(),
            model: accepted.model.id.clone(),
            provider: None,
            credential: None,
            outcome: Outcome::Lost,
            error: None,
            admitted_at: self.clock.now(),
            first_ms: None,
            total_ms: None,
            usage: TokenUsage::default(),
            usage_source: UsageSource::Bound,
            price_version: price.map(|price| price.version),
            cost: PicoUsd::ZERO,
            provider_cost: None,
            spending: Vec::new(),
        };
        at_most(event, bounds, price)
    }

    /// The catalogue's limit on a prompt. More bytes than tokens are allowed decide nothing yet: then it is counted.
    async fn check_input_limit(&self, accepted: &Accepted, policy: &Policy) -> Result<(), Failure> {
        let Some(most) = accepted.model.max_input_tokens else { return Ok(()) };
        let chat = accepted.request.operation == Operation::Chat;
        if !chat || accepted.request.view.has_media || bounds::input(&accepted.request, &accepted.model, policy) <= most
        {
            return Ok(());
        }
        let chat = accepted.request.dialect.decode_request(&accepted.request)?;
        let counted = counting::chat_tokens(&self.counter, accepted.model.encoding, &chat).await;
        let tokens = counted.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a prompt could not be counted");
            Failure::unavailable(Unavailable::UsageJournal)
        })?;
        if tokens <= most {
            return Ok(());
        }
        let message = format!("Input tokens ({tokens}) exceed the model's allowed limit of {most} per request.");
        Err(RequestError::new(message).param("messages").code("context_length_exceeded").into())
    }
}

/// An event of as much as is reserved, and no more.
fn at_most(event: UsageEvent, bounds: &Bounds, price: Option<&Price>) -> UsageEvent {
    let usage = pricing::plausible(bounds.usage());
    UsageEvent { usage, cost: bounds.first(price).cost.unwrap_or_default(), ..event }
}

fn refuse(mut observation: Observation, failure: Failure) -> Failure {
    observation.refused(&failure);
    failure
}

/// What a provider charges for each call of its own tools has no price here, and so no bound.
fn server_tools_unpriced() -> RequestError {
    let message = "Tools that the provider runs (web search, code) have no price here, and a budget applies: use tools of type \
                   'function' or 'custom' only.";
    RequestError::new(message).param("tools").code("server_side_tools_unpriced")
}

/// The catalogue's limit on an answer, for those who ask for more by name.
fn check_output_limit(accepted: &Accepted) -> Result<(), Failure> {
    let (Some(cap), Some(most)) = (&accepted.request.view.output_cap, accepted.model.max_output_tokens) else {
        return Ok(());
    };
    if cap.tokens <= most {
        return Ok(());
    }
    let message =
        format!("Requested max output tokens ({}) exceed the model's allowed limit of {most} per request.", cap.tokens);
    Err(RequestError::new(message).param("max_tokens").code("invalid_value").into())
}

/// The cap that is sent and reserved: the client's, at most the key's, and a key's at most the model's, which would refuse
/// more. Made up only where a token limit has to know one.
fn output_cap(accepted: &Accepted, of_key: Option<u64>, policy: &Policy, must_know: bool) -> Option<u64> {
    let of_model = accepted.model.max_output_tokens;
    let asked = accepted.request.view.output_cap.as_ref().map(|cap| cap.tokens);
    let of_key = of_key.map(|cap| of_model.map_or(cap, |most| cap.min(most)));
    let known = match (asked, of_key) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, of_key) => asked.or(of_key),
    };
    known.or_else(|| must_know.then(|| of_model.unwrap_or(policy.default_output_tokens)))
}

fn byte_count(body: &Bytes) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX)
}
