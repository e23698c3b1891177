//! Whether a model answers: one minimal streamed request, shared by everyone who asks within a minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ai4free_ports::{
    catalogue::{Model, ModelKind},
    chat::{ChatRequest, Message, Part, Role},
    dialect::Dialect,
    error::{ProviderError, ProviderErrorKind, RequestError},
    request::{Edits, Operation},
    runtime::{Clock, IdSource, Timestamp},
};
use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt, Shared, WeakShared},
};

use crate::application::{
    attempt::{Answer, Lane},
    authentication::Principal,
    chat,
    failure::Failure,
    inference::{Inbound, Inference},
};

/// How long a result is shared. A failure is asked about again sooner.
const UP_FOR: Duration = Duration::from_secs(60);
const DOWN_FOR: Duration = Duration::from_secs(10);
/// Enough for a word; some vendors refuse less.
const OUTPUT_TOKENS: u64 = 16;
/// Results kept; names under a pattern are as many as clients think of.
const MOST_RESULTS: usize = 1000;

/// The model answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Up {
    pub checked_at: Timestamp,
    pub first_token: Duration,
    /// Whether this is the result of an earlier check.
    pub cached: bool,
}

/// The model did not answer; the text is for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    pub message: String,
    pub retry_after: Duration,
}

type Check = Shared<BoxFuture<'static, Result<Up, Down>>>;

pub struct Uptime {
    inference: Arc<Inference>,
    dialect: Arc<dyn Dialect>,
    ids: Arc<dyn IdSource>,
    results: Mutex<HashMap<Arc<str>, Entry>>,
}

enum Entry {
    Running(WeakShared<BoxFuture<'static, Result<Up, Down>>>),
    Done { result: Result<Up, Down>, until: Duration },
}

impl Uptime {
    #[must_use]
    pub fn new(inference: Arc<Inference>, dialect: Arc<dyn Dialect>, ids: Arc<dyn IdSource>) -> Self {
        Self { inference, dialect, ids, results: Mutex::default() }
    }

    /// # Errors
    /// [`Failure::ModelNotFound`], [`Failure::ModelNotAllowed`]; the inner error is a model that is down.
    pub async fn check(self: &Arc<Self>, principal: &Principal, name: &str) -> Result<Result<Up, Down>, Failure> {
        let model = chat::usable_model(&self.inference.catalogue.current(), principal.key(), name)?;
        if model.kind == ModelKind::Image {
            let message = "The uptime of image models can't be checked without making an image.";
            return Err(RequestError::new(message).param("model").code("invalid_value").into());
        }
        let running = match self.known(&model) {
            Ok(result) => return Ok(result),
            Err(running) => running,
        };
        Ok(running.await)
    }

    /// A fresh result, or the one check that is under way: started here if there is none.
    fn known(self: &Arc<Self>, model: &Arc<Model>) -> Result<Result<Up, Down>, Check> {
        let now = self.inference.clock.monotonic();
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        match results.get(&model.id) {
            Some(Entry::Done { result, until }) if *until > now => {
                let result = result.clone();
                return Ok(result.map(|up| Up { cached: true, ..up }));
            }
            Some(Entry::Running(running)) => {
                if let Some(running) = running.upgrade() {
                    return Err(running);
                }
            }
            Some(Entry::Done { .. }) | None => {}
        }
        if results.len() >= MOST_RESULTS {
            results.retain(|_, entry| match entry {
                Entry::Done { until, .. } => *until > now,
                Entry::Running(running) => running.upgrade().is_some(),
            });
        }
        let check = Arc::clone(self).run(model.clone()).boxed().shared();
        if let Some(weak) = check.downgrade().filter(|_| results.len() < MOST_RESULTS) {
            results.insert(model.id.clone(), Entry::Running(weak));
        }
        Err(check)
    }

    async fn run(self: Arc<Self>, model: Arc<Model>) -> Result<Up, Down> {
        let clock: &dyn Clock = &*self.inference.clock;
        let started = clock.monotonic();
        let result = match self.first_token(&model, started).await {
            Ok(first_token) => Ok(Up { checked_at: clock.now(), first_token, cached: false }),
            Err(failure) => {
                tracing::info!(model = &*model.id, error = &failure as &dyn std::error::Error, "uptime check failed");
                Err(Down { message: format!("The model `{}` does not answer.", model.id), retry_after: DOWN_FOR })
            }
        };
        let until = clock.monotonic() + if result.is_ok() { UP_FOR } else { DOWN_FOR };
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = results.get_mut(&model.id) {
            *entry = Entry::Done { result: result.clone(), until };
        }
        result
    }

    /// Reads the short answer to its end, so that the provider's own count of it is what is charged.
    async fn first_token(&self, model: &Model, started: Duration) -> Result<Duration, Failure> {
        let request = ChatRequest {
            model: model.id.to_string(),
            messages: vec![Message {
                role: Role::User,
                content: vec![Part::Text("ping".to_owned())],
                name: None,
                tool_calls: Vec::new(),
                tool_call_id: None,
            }],
            stream: true,
            max_output_tokens: Some(OUTPUT_TOKENS),
            ..ChatRequest::default()
        };
        let edits = Edits { model: model.id.clone(), output_cap: None, output_cap_field: None, ask_for_usage: false };
        let inbound = Inbound {
            id: self.ids.request_id(),
            arrived: started,
            principal: Principal::system(&*self.inference.clock),
            operation: Operation::Chat,
            dialect: self.dialect.clone(),
            body: self.dialect.encode_request(&request, &edits)?,
        };
        let snapshot = self.inference.catalogue.current();
        let answer = self.inference.run(inbound, Lane::Probe, |inbound| chat::accept(inbound, &snapshot)).await?;
        let Answer::Stream { mut frames, .. } = answer else {
            return Ok(self.inference.clock.monotonic().saturating_sub(started));
        };
        let mut first = None;
        while let Some(frame) = frames.next().await {
            frame.map_err(Failure::Provider)?;
            first.get_or_insert_with(|| self.inference.clock.monotonic().saturating_sub(started));
        }
        first.ok_or_else(|| Failure::Provider(ProviderError::new(ProviderErrorKind::Protocol)))
    }
}
