//! Ports by hand: each awaits once before and once after it does something, so that a test can leave at every await.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::{Future, poll_fn},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow},
    catalogue::{Catalogue, Model, ModelKind, OnDisconnect, Price, Snapshot, Target},
    chat::{ChatEvent, ChatReply, ChatRequest, Choice, Message, Part, Role},
    dialect::{Dialect, ErrorPlace, EventReader, EventWriter, StreamContext, Tap, UpstreamError, WireError},
    error::{CountError, JournalError, LimiterDown, ProviderError, RequestError},
    key::{KeyId, StoredKey},
    limits::Limits,
    llm_provider::{Call, CredentialInfo, Deadlines, Facts, Frame, LlmProvider, Reply},
    rate_limiter::{
        Certainty, Claim, Claims, Held, LeaseId, LimitKind, RateLimiter, Reservation, Scope, Settlement, Standing,
    },
    request::{Edits, InboundRequest, Operation, OutputCap, RequestId, RequestView, Rope},
    runtime::{Clock, IdSource, RequestObserver, RequestSummary, Timestamp, TokenCounter},
    usage::{Encoding, TokenUsage},
    usage_journal::{Checkpoint, UsageJournal},
    usage_ledger::UsageEvent,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};

use super::money::{FakeLedger, FakeMoney, FakeTasks, ShortDays};
use crate::application::{
    admission::Admission,
    attempt::{Answer, Upstream, Upstreams},
    authentication::Principal,
    chat::Chat,
    drains::Drains,
    failure::Failure,
    gate::Gate,
    grants::Grants,
    inference::{Inbound, Inference},
    policy::Policy,
    reserver::Reserver,
    unmetered::{Unmetered, WhenFull},
};

/// Pending once.
pub(super) async fn pause() {
    let mut paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls until it is done.
pub(super) fn run<F: Future>(future: F) -> F::Output {
    polled(future, usize::MAX).expect("it ends")
}

/// Polls at most so often, and drops what is not done by then.
pub(super) fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..times {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}

#[derive(Default)]
pub(super) struct ManualClock(AtomicU64);

impl ManualClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
pub(super) struct CountingIds(AtomicUsize);

impl IdSource for CountingIds {
    fn request_id(&self) -> RequestId {
        RequestId(uuid(self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

fn uuid(number: usize) -> uuid::Uuid {
    uuid::Uuid::from_u128(number as u128)
}

/// Refuses a claim that alone exceeds its limit, and holds everything else.
#[derive(Default)]
pub(super) struct FakeLimiter {
    state: Mutex<Leases>,
    pub(super) is_down: AtomicBool,
}

#[derive(Default)]
struct Leases {
    money: FakeMoney,
    held: HashMap<LeaseId, Vec<Claim>>,
    voided: HashSet<LeaseId>,
    settled: Vec<Settlement>,
    holds: Vec<UsageEvent>,
}

impl FakeLimiter {
    pub(super) fn money<T>(&self, look: impl FnOnce(&mut FakeMoney) -> T) -> T {
        look(&mut self.state.lock().unwrap().money)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.state.lock().unwrap().held.len()
    }

    /// Every lease that was settled, with all that was claimed and settled of money.
    pub(super) fn leases(&self) -> Vec<(u16, i64, i64)> {
        let sum = |amounts: &mut dyn Iterator<Item = i64>| amounts.sum();
        let state = self.state.lock().unwrap();
        let of = |settlement: &Settlement| {
            let money = &settlement.money;
            let claimed = sum(&mut money.iter().map(|money| money.claim.amount.0));
            (settlement.lease.number, claimed, sum(&mut money.iter().map(|money| money.actual.0)))
        };
        state.settled.iter().map(of).collect()
    }

    /// What would be told of leases whose end nobody knows.
    pub(super) fn holds(&self) -> Vec<UsageEvent> {
        self.state.lock().unwrap().holds.clone()
    }

    /// The events that came with settlements.
    pub(super) fn remembered(&self) -> Vec<UsageEvent> {
        self.state.lock().unwrap().settled.iter().flat_map(|settlement| settlement.events.clone()).collect()
    }

    /// What each claim was settled to, in the order of the leases.
    pub(super) fn settled(&self) -> Vec<(String, LimitKind, u64)> {
        let state = self.state.lock().unwrap();
        let claims = state.settled.iter().flat_map(|settlement| &settlement.claims);
        claims
            .map(|settled| {
                let scope = &settled.claim.scope;
                (format!("{}:{}", scope.name(), scope.id()), settled.claim.kind, settled.actual)
            })
            .collect()
    }

    pub(super) fn actual(&self, kind: LimitKind) -> u64 {
        self.settled().iter().find(|(_, settled, _)| *settled == kind).expect("a settled claim").2
    }
}

#[async_trait]
impl RateLimiter for FakeLimiter {
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        pause().await;
        if self.is_down.load(Ordering::Relaxed) {
            return Err(LimiterDown("down".into()));
        }
        let counts = &claims.counts;
        if let Some(claim) = counts.iter().position(|claim| claim.amount > claim.limit) {
            let (retry_after, standing) = (Duration::from_secs(60), Standing { remaining: 0, reset: Duration::ZERO });
            return Ok(Reservation::Refused { claim, settled: 0, reserved: 0, standing, retry_after });
        }
        {
            let mut state = self.state.lock().unwrap();
            if state.voided.contains(&lease) {
                return Err(LimiterDown("voided".into()));
            }
            if let Some(refused) = state.money.refuse(claims) {
                return Ok(refused);
            }
            let hold = claims.hold(lease, state.money.holder());
            state.holds.extend(hold);
            state.held.insert(lease, counts.clone());
        }
        pause().await;
        let standing = |claim: &Claim| Standing { remaining: claim.limit - claim.amount, reset: Duration::ZERO };
        let state = self.state.lock().unwrap();
        Ok(Reservation::Held(Held {
            counts: counts.iter().map(standing).collect(),
            money: state.money.standings(claims),
            holder: (!claims.money.is_empty()).then(|| state.money.holder()),
            is_degraded: false,
        }))
    }

    fn settle(&self, settlement: Settlement) {
        let mut state = self.state.lock().unwrap();
        if state.held.remove(&settlement.lease).is_some() {
            state.money.settle(&settlement.money);
        } else {
            assert_eq!(settlement.certainty, Certainty::Unknown, "only what was held is settled");
        }
        if settlement.certainty == Certainty::Unknown {
            state.voided.insert(settlement.lease);
        }
        state.settled.push(settlement);
    }

    async fn grant(&self, grant: &Grant) -> Result<(), LimiterDown> {
        pause().await;
        self.money(|money| money.grant(grant));
        Ok(())
    }

    async fn forget(&self, holder: Holder) -> Result<(), LimiterDown> {
        self.money(|money| money.forget(holder));
        Ok(())
    }

    async fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        Ok(self.money(|money| money.standing(scope, window)))
    }
}

#[derive(Default)]
pub(super) struct FakeJournal {
    pub(super) open: Mutex<HashMap<RequestId, UsageEvent>>,
    pub(super) closed: Mutex<Vec<Vec<UsageEvent>>>,
    pub(super) is_full: AtomicBool,
    pub(super) is_fenced: AtomicBool,
    /// How often a request finds it busy.
    pub(super) busy: AtomicUsize,
    /// Closes wait while it is busy.
    pub(super) is_behind: AtomicBool,
}

impl FakeJournal {
    /// The rows of the only request that was closed.
    pub(super) fn rows(&self) -> Vec<UsageEvent> {
        let closed = self.closed.lock().unwrap();
        assert_eq!(closed.len(), 1, "each request is closed once");
        closed.first().cloned().unwrap()
    }
}

#[async_trait]
impl UsageJournal for FakeJournal {
    fn open(&self, bound: &UsageEvent) -> Result<(), JournalError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(JournalError::Full);
        }
        if self.is_fenced.load(Ordering::Relaxed) {
            return Err(JournalError::Fenced);
        }
        if self.busy.load(Ordering::Relaxed) > 0 {
            return Err(JournalError::Busy);
        }
        assert!(self.open.lock().unwrap().insert(bound.request, bound.clone()).is_none(), "opened twice");
        Ok(())
    }

    async fn ready(&self) -> Result<(), JournalError> {
        pause().await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    async fn written(&self) {
        while self.is_behind.load(Ordering::Relaxed) {
            pause().await;
        }
    }

    fn checkpoint(&self, _checkpoint: &Checkpoint) {}

    fn close(&self, request: RequestId, events: &[UsageEvent]) {
        assert!(self.open.lock().unwrap().remove(&request).is_some(), "closed twice, or never opened");
        self.closed.lock().unwrap().push(events.to_vec());
    }

    async fn drained(&self, _within: Duration) {}
}

#[derive(Default)]
pub(super) struct FakeObserver(pub(super) Mutex<Vec<RequestSummary>>);

impl RequestObserver for FakeObserver {
    fn finished(&self, summary: &RequestSummary) {
        self.0.lock().unwrap().push(summary.clone());
    }
}

/// One token a byte, or four bytes a token for O200k.
struct ByteCounter;

#[async_trait]
impl TokenCounter for ByteCounter {
    async fn count(&self, encoding: Encoding, text: Bytes) -> Result<u64, CountError> {
        pause().await;
        let bytes = text.len() as u64;
        Ok(if encoding == Encoding::O200k { bytes.div_ceil(4) } else { bytes })
    }
}

/// What the provider does with one call.
pub(super) enum Step {
    Whole { body: &'static str, facts: Facts },
    Stream(Vec<Result<Frame, ProviderError>>),
    Fail(ProviderError),
}

/// Does one step a call.
pub(super) struct ScriptedProvider {
    credentials: Vec<CredentialInfo>,
    pub(super) script: Mutex<VecDeque<Step>>,
    pub(super) calls: Mutex<Vec<Arc<Edits>>>,
}

#[async_trait]
impl LlmProvider for ScriptedProvider {
    fn credentials(&self) -> &[CredentialInfo] {
        &self.credentials
    }

    async fn call(&self, call: Call) -> Result<Reply, ProviderError> {
        pause().await;
        self.calls.lock().unwrap().push(call.edits);
        let step = self.script.lock().unwrap().pop_front().expect("a call that the test expects");
        pause().await;
        match step {
            Step::Whole { body, facts } => Ok(Reply::Whole { body: body.into(), facts }),
            Step::Fail(error) => Err(error),
            Step::Stream(frames) => Ok(Reply::Stream(Box::pin(stream::iter(frames).then(async |frame| {
                pause().await;
                frame
            })))),
        }
    }
}

/// Text is text: a body is one message, a frame one delta. `stream`, `media` and `cap=N` in it mean what they say.
pub(super) struct PlainDialect;

#[expect(clippy::unimplemented, reason = "a use-case must not do the provider's work")]
impl Dialect for PlainDialect {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn view(&self, _operation: Operation, body: &Bytes) -> Result<RequestView, RequestError> {
        let text = std::str::from_utf8(body).unwrap();
        let cap = text.split("cap=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        Ok(RequestView {
            model: ["drained", "sliced", "squeezed"]
                .into_iter()
                .find(|model| text.contains(model))
                .unwrap_or("m")
                .into(),
            model_span: None,
            stream: text.contains("stream"),
            include_usage: false,
            stream_options_span: None,
            output_cap: cap.map(|tokens| OutputCap { tokens, name_span: 0..0, value_span: 0..0 }),
            null_caps: Vec::new(),
            choices: 1,
            insert_at: 0,
            has_members: true,
            has_media: text.contains("media"),
            has_tools: text.contains("tool"),
            has_server_tools: text.contains("server tool"),
        })
    }

    fn decode_request(&self, request: &InboundRequest) -> Result<ChatRequest, RequestError> {
        let text = String::from_utf8(request.body.to_vec()).unwrap();
        if text.contains("garbage") {
            return Err(RequestError::new("That is garbage.").param("messages"));
        }
        Ok(ChatRequest { messages: vec![message(text.trim_end().to_owned())], ..ChatRequest::default() })
    }

    fn encode_request(&self, _request: &ChatRequest, _edits: &Edits) -> Result<Bytes, RequestError> {
        Ok("ping stream".into())
    }

    fn decode_reply(&self, body: &[u8]) -> Result<ChatReply, ProviderError> {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let choices = vec![Choice { text: Some(text), ..Choice::default() }];
        Ok(ChatReply { choices, ..ChatReply::default() })
    }

    fn event_reader(&self) -> Box<dyn EventReader> {
        struct Deltas;
        impl EventReader for Deltas {
            fn feed(&mut self, read: &[u8], out: &mut Vec<ChatEvent>) -> Result<(), ProviderError> {
                out.push(ChatEvent::Text { choice: 0, text: String::from_utf8(read.to_vec()).unwrap() });
                Ok(())
            }
            fn end(&mut self, _out: &mut Vec<ChatEvent>) -> Result<(), ProviderError> {
                Ok(())
            }
        }
        Box::new(Deltas)
    }

    fn splice(&self, _: &InboundRequest, _: &Edits) -> Rope {
        unimplemented!("the provider's side")
    }
    fn encode_reply(&self, _: &ChatReply) -> Bytes {
        unimplemented!("the provider's side")
    }
    fn inspect_reply(&self, _: Operation, _: &Bytes) -> Result<Facts, ProviderError> {
        unimplemented!("the provider's side")
    }
    fn tap(&self, _: StreamContext) -> Box<dyn Tap> {
        unimplemented!("the provider's side")
    }
    fn event_writer(&self, _: StreamContext) -> Box<dyn EventWriter> {
        struct Words;
        impl EventWriter for Words {
            fn write(&mut self, event: &ChatEvent, out: &mut BytesMut) -> Facts {
                out.extend_from_slice(format!("<{event:?}>").as_bytes());
                Facts::default()
            }
        }
        Box::new(Words)
    }
    fn classify_error(&self, _: &UpstreamError<'_>) -> ProviderError {
        unimplemented!("the provider's side")
    }
    fn write_error(&self, _: &WireError<'_>, _: ErrorPlace) -> Bytes {
        unimplemented!("the client's side")
    }
}

fn message(text: String) -> Message {
    Message {
        role: Role::User,
        content: vec![Part::Text(text)],
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    }
}

struct FixedCatalogue(Arc<Snapshot>);

impl Catalogue for FixedCatalogue {
    fn current(&self) -> Arc<Snapshot> {
        self.0.clone()
    }
}

/// Everything around one model `m` of one provider with the credentials `p#1` and `p#2`.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) ids: Arc<CountingIds>,
    pub(super) limiter: Arc<FakeLimiter>,
    pub(super) journal: Arc<FakeJournal>,
    pub(super) observer: Arc<FakeObserver>,
    pub(super) provider: Arc<ScriptedProvider>,
    pub(super) ledger: Arc<FakeLedger>,
    pub(super) tasks: Arc<FakeTasks>,
    pub(super) drains: Arc<Drains>,
    pub(super) gate: Arc<Gate>,
    /// Whether the gateway is cutting what still runs.
    pub(super) cut: Arc<AtomicBool>,
    pub(super) unmetered: Arc<Unmetered>,
    pub(super) inference: Arc<Inference>,
    /// Of the caller.
    pub(super) key: StoredKey,
}

impl World {
    pub(super) fn new(script: Vec<Step>) -> Self {
        Self::when_full(WhenFull::Reject, script)
    }

    /// What becomes of requests that the journal refuses.
    pub(super) fn when_full(policy: WhenFull, script: Vec<Step>) -> Self {
        let unmetered = Arc::new(Unmetered::new(policy, Arc::<ManualClock>::default()));
        let limits = |tokens| Limits {
            requests_per_minute: Some(10),
            tokens_per_minute: Some(tokens),
            max_concurrent_requests: Some(5),
            ..Limits::NONE
        };
        let credential = |id: &str| CredentialInfo { id: id.into(), limits: limits(90_000) };
        let provider = Arc::new(ScriptedProvider {
            credentials: vec![credential("p#1"), credential("p#2")],
            script: Mutex::new(script.into()),
            calls: Mutex::default(),
        });
        let (clock, limiter) = (Arc::new(ManualClock::default()), Arc::new(FakeLimiter::default()));
        let (journal, observer) = (Arc::new(FakeJournal::default()), Arc::new(FakeObserver::default()));
        let deadline = Duration::from_secs(1);
        let upstream = Upstream {
            provider: provider.clone(),
            probe: provider.clone(),
            deadlines: Deadlines { first_byte: deadline, idle: deadline, total: deadline },
        };
        let policy = Policy {
            plans: [("plan".into(), limits(1000)), ("unlimited".into(), Limits::NONE)].into(),
            default_output_tokens: 100,
            default_context_tokens: 500,
            ..Policy::default()
        };
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        let gate = Arc::new(Gate::new(move || is_cut.load(Ordering::Relaxed)));
        gate.open();
        let (ledger, tasks) = (Arc::new(FakeLedger::default()), Arc::new(FakeTasks::default()));
        let grants = Grants::new(limiter.clone(), ledger.clone(), tasks.clone(), tasks.clone(), 1);
        let calendar = Arc::new(ShortDays);
        let reserver = Reserver::new(limiter.clone(), Arc::new(grants), calendar, clock.clone());
        let is_cut = cut.clone();
        let cut_future = poll_fn(move |_| if is_cut.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending });
        let drains = Arc::new(Drains::new(tasks.clone(), tasks.clone(), cut_future));
        let inference = Arc::new(Inference {
            catalogue: Arc::new(FixedCatalogue(Arc::new(snapshot()))),
            policy: Arc::new(Arc::new(policy)),
            upstreams: Upstreams::new([("p".into(), upstream)]).draining(drains.clone()),
            admission: Admission {
                reserver: Arc::new(reserver),
                journal: journal.clone(),
                clock: clock.clone(),
                gate: gate.clone(),
                unmetered: unmetered.clone(),
            },
            counter: Arc::new(ByteCounter),
            observer: observer.clone(),
            clock: clock.clone(),
        });
        let system = Principal::system(&*clock).key().clone();
        let key = StoredKey { id: KeyId::parse("abcdefghijkl").unwrap(), plan: "plan".into(), ..system };
        let ids = Arc::default();
        Self {
            clock,
            ids,
            limiter,
            journal,
            observer,
            provider,
            ledger,
            tasks,
            drains,
            gate,
            cut,
            unmetered,
            inference,
            key,
        }
    }

    pub(super) async fn send(&self, body: &str) -> Result<Answer, Failure> {
        let inbound = Inbound {
            id: self.ids.request_id(),
            arrived: self.clock.monotonic(),
            principal: Principal::of_test(self.key.clone()),
            operation: Operation::Chat,
            dialect: Arc::new(PlainDialect),
            body: body.to_owned().into(),
        };
        Chat { inference: self.inference.clone() }.complete(inbound).await
    }

    /// Sends and reads the answer to its end.
    pub(super) async fn exchange(&self, body: &str) -> Result<(), Failure> {
        if let Answer::Stream { mut frames, .. } = self.send(body).await? {
            while let Some(frame) = frames.next().await {
                frame.map_err(Failure::Provider)?;
            }
        }
        Ok(())
    }
}

fn snapshot() -> Snapshot {
    let price = Price { version: 1, input: 1, output: 1000, ..Price::default() };
    let model = Arc::new(Model {
        id: "m".into(),
        label: "m".into(),
        kind: ModelKind::Chat,
        targets: Arc::new([Target { provider: "p".into(), upstream_model: "upstream-m".into() }]),
        price: Some(Arc::new(price)),
        max_input_tokens: Some(600),
        max_output_tokens: Some(200),
        limits: Limits::NONE,
        encoding: Encoding::BytesPerFour,
        on_disconnect: OnDisconnect::Cancel,
        hides_reasoning: true,
        description: None,
        owned_by: "p".into(),
        created: 0,
        available: true,
    });
    let drained = Arc::new(Model { id: "drained".into(), on_disconnect: OnDisconnect::Drain, ..(*model).clone() });
    let sliced =
        Model { id: "sliced".into(), max_output_tokens: Some(100_000), hides_reasoning: false, ..(*drained).clone() };
    let squeezed = Model { id: "squeezed".into(), encoding: Encoding::O200k, ..sliced.clone() };
    let models = [
        ("m".into(), model),
        ("drained".into(), drained),
        ("sliced".into(), Arc::new(Model { on_disconnect: OnDisconnect::Cancel, ..sliced })),
        ("squeezed".into(), Arc::new(squeezed)),
    ];
    Snapshot { by_name: models.into(), ..Snapshot::default() }
}

pub(super) fn delta(text: &'static str) -> Result<Frame, ProviderError> {
    let facts = Facts { output_bytes: text.len() as u64, ..Facts::default() };
    Ok(Frame { bytes: text.into(), facts })
}

pub(super) fn done(usage: Option<TokenUsage>) -> Result<Frame, ProviderError> {
    Ok(Frame { bytes: "!".into(), facts: Facts { usage, done: true, ..Facts::default() } })
}

pub(super) fn tokens(input: u64, output: u64) -> TokenUsage {
    TokenUsage { input, output, ..TokenUsage::default() }
}
