//! Requests, and the client's own journal of what came of them.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    noise::Measured,
    rig::{
        Rig,
        catalogue::{CHEAP, DEAR, IMAGE, Model, PER_REQUEST, Usage},
        client::{Connection, Head, Reply, Request},
        dice::Dice,
        gateway::Key,
    },
    upstream::{PROOF_ID, SCRIPT, Script},
};

/// In which a change of a key reaches every replica, which then read it anew.
const EVERYWHERE: Duration = Duration::from_secs(1);
/// No answer at all is an answer, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// So that the moment at which a name was made tells which of two requests it is of.
const BETWEEN_NAMELESS: Duration = Duration::from_millis(6);

static LAST_PROOF_ID: AtomicU64 = AtomicU64::new(0);

/// What a client is about to ask.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) proof: u64,
    pub(crate) model: Model,
    /// What the upstream will report, if it reports.
    pub(crate) usage: Usage,
    pub(crate) script: Script,
    pub(crate) is_stream: bool,
    /// Whether the client of a stream wants to see its usage.
    pub(crate) asks_for_usage: bool,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) prompt: String,
}

/// One line of the client's journal.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) order: Order,
    pub(crate) key: String,
    /// Milliseconds since the epoch between which the gateway must have named the request.
    pub(crate) named_between: (u64, u64),
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) request_id: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) code: String,
    pub(crate) retry_after: Option<u64>,
    /// Limits were held without the store that all replicas share.
    pub(crate) is_degraded: bool,
    /// It says that it may have no row.
    pub(crate) is_unmetered: bool,
    /// Everything arrived, to the last byte.
    pub(crate) complete: bool,
    /// Why not.
    pub(crate) failure: Option<String>,
}

impl Order {
    pub(crate) fn new(model: Model, usage: Usage, script: Script) -> Self {
        Self {
            proof: LAST_PROOF_ID.fetch_add(1, Ordering::Relaxed) + 1,
            model,
            usage,
            script,
            is_stream: false,
            asks_for_usage: false,
            max_tokens: None,
            prompt: "How much is it?".to_owned(),
        }
    }

    /// Answered at once, and costs what the model costs for it.
    pub(crate) fn plain(model: Model) -> Self {
        let usage = Usage { input: 7, output: 3, ..Usage::default() };
        Self::new(model, usage, Script::reporting(3, usage.on_the_wire()))
    }

    /// Any of the models, streamed or not, with every kind of tokens.
    pub(crate) fn mixed(dice: &mut Dice) -> Self {
        if dice.percent(4) {
            let images = dice.within(1..4);
            let usage = Usage { images: images.try_into().unwrap(), ..Usage::default() };
            return Self::new(IMAGE, usage, Script::reporting(1, Value::Null).without_usage());
        }
        let model = *dice.pick(&[CHEAP, DEAR, PER_REQUEST]);
        let mut count = |most: u64| i64::try_from(dice.within(0..most)).unwrap();
        let mut usage = Usage { input: count(5000), output: count(2000), ..Usage::default() };
        let (with_cache, with_reasoning) = (count(2) == 1, count(2) == 1);
        if with_cache {
            usage.cache_read = count(3000);
        }
        if with_reasoning {
            usage.reasoning = count(1500);
        }
        let chunks = u32::try_from(dice.within(1..12)).unwrap();
        let order = Self::new(model, usage, Script::reporting(chunks, usage.on_the_wire()));
        if dice.percent(50) { order.streamed(dice.percent(50)) } else { order }
    }

    pub(crate) fn streamed(mut self, asks_for_usage: bool) -> Self {
        self.is_stream = true;
        self.asks_for_usage = asks_for_usage;
        self
    }

    pub(crate) fn cost_pico(&self) -> i128 {
        self.model.cost_pico(&self.usage)
    }

    pub(crate) fn request(&self, key: &Key) -> Request {
        let path = if self.model.is_image { "/v1/images/generations" } else { "/v1/chat/completions" };
        Request::new("POST", path).header("authorization", &format!("Bearer {}", key.text)).json(&self.body())
    }

    pub(crate) fn body(&self) -> Value {
        let script = serde_json::to_value(&self.script).unwrap();
        let mut body = json!({"model": self.model.id, PROOF_ID: self.proof, SCRIPT: script});
        let members = body.as_object_mut().unwrap();
        if self.model.is_image {
            members.insert("prompt".to_owned(), self.prompt.clone().into());
            members.insert("n".to_owned(), self.usage.images.into());
            return body;
        }
        members.insert("messages".to_owned(), json!([{"role": "user", "content": self.prompt}]));
        if let Some(most) = self.max_tokens {
            members.insert("max_tokens".to_owned(), most.into());
        }
        if self.is_stream {
            members.insert("stream".to_owned(), true.into());
            if self.asks_for_usage {
                members.insert("stream_options".to_owned(), json!({"include_usage": true}));
            }
        }
        body
    }
}

/// A client that sends one request after the other with a key of its own, so that each row of the ledger can be told to be
/// of one of them, even of a request whose name the client never learnt.
pub(crate) struct Lane {
    pub(crate) key: Key,
    address: SocketAddr,
    connection: Option<Connection>,
    pub(crate) journal: Vec<Sent>,
}

impl Lane {
    pub(crate) fn new(key: Key, address: SocketAddr) -> Self {
        Self { key, address, connection: None, journal: Vec::new() }
    }

    /// As many as asked for that share a key, spread over the replicas.
    pub(crate) fn sharing(key: &Key, rig: &Rig<'_>, count: usize) -> Vec<Self> {
        let addresses = rig.gateways.iter().map(|gateway| gateway.address).cycle();
        addresses.take(count).map(|address| Self::new(key.clone(), address)).collect()
    }

    /// Requests to come go there.
    pub(crate) fn aim(&mut self, address: SocketAddr) {
        if address != self.address {
            self.address = address;
            self.connection = None;
        }
    }

    /// Sends it and reads the answer to its end.
    pub(crate) async fn send(&mut self, order: Order) -> &Sent {
        let mut entry = Sent::of(order, &self.key);
        match self.exchange(&entry.order.request(&self.key)).await {
            Ok(reply) => entry.answered(&reply),
            Err(error) => entry.failure = Some(error.to_string()),
        }
        self.write(entry).await
    }

    /// On the connection of the last request, unless the gateway has closed that since.
    async fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => Connection::open(self.address).await?,
        };
        let reply = timeout(PATIENCE, connection.exchange(request)).await??;
        if reply.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(reply)
    }

    /// Sends it on a connection of its own and waits for nothing.
    pub(crate) async fn begin(&mut self, order: Order) -> io::Result<(Connection, Sent)> {
        let entry = Sent::of(order, &self.key);
        let mut connection = Connection::open(self.address).await?;
        connection.start(&entry.order.request(&self.key)).await?;
        Ok((connection, entry))
    }

    pub(crate) async fn write(&mut self, mut entry: Sent) -> &Sent {
        entry.ended = Instant::now();
        entry.named_between.1 = epoch_millis();
        if entry.request_id.is_none() {
            sleep(BETWEEN_NAMELESS).await;
        }
        self.journal.push(entry);
        self.journal.last().unwrap()
    }
}

/// Each lane sends what `next` gives it, one after the other, until it gives nothing more.
pub(crate) async fn drive<F>(lanes: Vec<Lane>, dice: &Dice, next: F) -> Vec<Lane>
where
    F: FnMut(&mut Dice, &mut Lane) -> Option<Order> + Clone + Send + 'static,
{
    drive_paced(lanes, dice, Duration::ZERO, next).await
}

/// The same with a pause after each answer.
pub(crate) async fn drive_paced<F>(lanes: Vec<Lane>, dice: &Dice, pause: Duration, next: F) -> Vec<Lane>
where
    F: FnMut(&mut Dice, &mut Lane) -> Option<Order> + Clone + Send + 'static,
{
    let running = lanes.into_iter().zip(0..).map(|(mut lane, number)| {
        let (mut dice, mut next) = (dice.split(number), next.clone());
        tokio::spawn(async move {
            while let Some(order) = next(&mut dice, &mut lane) {
                lane.send(order).await;
                if !pause.is_zero() {
                    sleep(pause).await;
                }
            }
            lane
        })
    });
    join_all(running).await.into_iter().map(Result::unwrap).collect()
}

/// Lets every lane's key become known to its replica, to stay so.
pub(crate) async fn warm(lanes: &mut [Lane]) {
    sleep(EVERYWHERE).await;
    for lane in lanes {
        lane.send(Order::plain(CHEAP)).await;
    }
}

/// The journals of all lanes.
pub(crate) fn journal(lanes: &[Lane]) -> Vec<&Sent> {
    lanes.iter().flat_map(|lane| &lane.journal).collect()
}

/// How long each answer took.
pub(crate) fn latencies(journal: &[&Sent]) -> Vec<Measured> {
    journal.iter().map(|sent| (sent.started, sent.took())).collect()
}

impl Sent {
    fn of(order: Order, key: &Key) -> Self {
        let now = Instant::now();
        let millis = epoch_millis();
        Self {
            order,
            key: key.id.clone(),
            named_between: (millis, millis),
            started: now,
            ended: now,
            request_id: None,
            status: None,
            code: String::new(),
            retry_after: None,
            is_degraded: false,
            is_unmetered: false,
            complete: false,
            failure: None,
        }
    }

    pub(crate) fn headed(&mut self, head: &Head) {
        self.status = Some(head.status);
        self.request_id = head.header("x-request-id").map(str::to_owned);
    }

    pub(crate) fn answered(&mut self, reply: &Reply) {
        self.status = Some(reply.status);
        self.request_id = reply.header("x-request-id").map(str::to_owned);
        self.retry_after = reply.retry_after();
        let degraded = reply.header("x-ai4free-degraded").unwrap_or_default();
        self.is_degraded = degraded.contains("limits");
        self.is_unmetered = degraded.contains("accounting");
        self.complete = reply.status == 200 && (!self.order.is_stream || reply.is_done());
        if !self.complete {
            self.code = reply.code();
            let text = reply.text();
            self.failure = Some(format!("{} {}", reply.status, text.chars().take(300).collect::<String>()));
        }
    }

    pub(crate) fn took(&self) -> Duration {
        self.ended.duration_since(self.started)
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.status, Some(429 | 503))
    }
}

fn epoch_millis() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
