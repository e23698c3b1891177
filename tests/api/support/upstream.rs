//! A provider that does as it is told: answers in pieces, waits at gates that the test opens, hangs, breaks off. It keeps every
//! request byte for byte, and knows when each connection ended.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{eventually, http::find};

/// Something that a reply waits for and a test lets happen.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets one reply pass.
    pub(crate) fn open(&self) {
        self.0.add_permits(1);
    }

    async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

#[derive(Clone)]
enum Step {
    Bytes(Vec<u8>),
    Wait(Gate),
    Hang,
    /// Ends the connection with a FIN.
    Cut,
    /// Ends the connection with a RST.
    Reset,
}

/// What is written in answer to one request.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    steps: Vec<Step>,
}

impl Reply {
    pub(crate) fn json(body: &Value) -> Self {
        Self::whole(200, "application/json", body.to_string())
    }

    pub(crate) fn error(status: u16, body: &Value) -> Self {
        Self::whole(status, "application/json", body.to_string())
    }

    pub(crate) fn whole(status: u16, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        Self::with_headers(status, &[("content-type", content_type)], body)
    }

    pub(crate) fn with_headers(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} X\r\n{lines}content-length: {}\r\n\r\n", body.len());
        Self::default().bytes([head.as_bytes(), body].concat())
    }

    /// A whole stream at once.
    pub(crate) fn sse(events: &[String]) -> Self {
        Self::stream().piece(&events.concat()).end()
    }

    /// The head of a stream; its body follows in pieces.
    pub(crate) fn stream() -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        Self::default().bytes(head)
    }

    /// Nothing at all, until the client goes.
    pub(crate) fn hang() -> Self {
        Self::default().then(Step::Hang)
    }

    /// Ends the connection without a word.
    pub(crate) fn hang_up() -> Self {
        Self::default().then(Step::Cut)
    }

    pub(crate) fn reset() -> Self {
        Self::default().then(Step::Reset)
    }

    /// A piece of a stream's body.
    pub(crate) fn piece(self, text: &str) -> Self {
        self.bytes(format!("{:x}\r\n{text}\r\n", text.len()))
    }

    /// A piece of a stream's body that need not be text.
    pub(crate) fn raw_piece(self, bytes: &[u8]) -> Self {
        let head = format!("{:x}\r\n", bytes.len());
        self.bytes([head.as_bytes(), bytes, b"\r\n"].concat())
    }

    /// The end of a stream's body.
    pub(crate) fn end(self) -> Self {
        self.bytes("0\r\n\r\n")
    }

    pub(crate) fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    pub(crate) fn followed_by(mut self, other: Self) -> Self {
        self.steps.extend(other.steps);
        self
    }

    pub(crate) fn then_hang(self) -> Self {
        self.then(Step::Hang)
    }

    pub(crate) fn then_cut(self) -> Self {
        self.then(Step::Cut)
    }

    pub(crate) fn then_reset(self) -> Self {
        self.then(Step::Reset)
    }

    fn bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Bytes(bytes.into()))
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// One request as it arrived.
#[derive(Clone)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Number of its connection.
    pub(crate) connection: usize,
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

type Script = dyn Fn(&Recorded) -> Reply + Send + Sync;

#[derive(Default)]
struct State {
    requests: Vec<Recorded>,
    queued: VecDeque<Reply>,
    otherwise: Option<Arc<Script>>,
    /// By number of the connection: when its client went.
    ended: Vec<Option<Instant>>,
}

/// Listens until it is dropped.
pub(crate) struct MockUpstream {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for MockUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl MockUpstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let accepting = tokio::spawn({
            let state = state.clone();
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let number = {
                        let mut state = state.lock().unwrap();
                        state.ended.push(None);
                        state.ended.len() - 1
                    };
                    tokio::spawn(serve(stream, number, state.clone()));
                }
            }
        });
        Self { address, state, accepting }
    }

    /// One that gives every request the same answer.
    pub(crate) async fn always(reply: Reply) -> Self {
        let upstream = Self::start().await;
        upstream.otherwise(move |_| reply.clone());
        upstream
    }

    /// The answer to the next request that has none yet.
    pub(crate) fn answer(&self, reply: Reply) {
        self.state.lock().unwrap().queued.push_back(reply);
    }

    /// The answer to requests for which none is queued.
    pub(crate) fn otherwise(&self, script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) {
        self.state.lock().unwrap().otherwise = Some(Arc::new(script));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }

    /// The request with this number, counted from 0, when it has come.
    pub(crate) async fn request(&self, number: usize) -> Recorded {
        eventually("a request at the provider", || async { self.requests().get(number).cloned() }).await
    }

    /// When the gateway closed this connection.
    pub(crate) async fn end_of(&self, connection: usize) -> Instant {
        eventually("the end of a connection to the provider", || async {
            self.state.lock().unwrap().ended.get(connection).copied().flatten()
        })
        .await
    }
}

async fn serve(mut stream: TcpStream, number: usize, state: Arc<Mutex<State>>) {
    let mut read = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut read, number).await {
        let reply = {
            let mut state = state.lock().unwrap();
            let queued = state.queued.pop_front();
            let reply = queued.or_else(|| state.otherwise.clone().map(|script| script(&request)));
            state.requests.push(request);
            reply.unwrap_or_else(|| panic!("the provider was not told what to answer"))
        };
        if !play(&mut stream, reply, &mut read).await {
            break;
        }
    }
    state.lock().unwrap().ended[number].get_or_insert_with(Instant::now);
}

/// Whether the connection goes on.
async fn play(stream: &mut TcpStream, reply: Reply, read: &mut Vec<u8>) -> bool {
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        for step in reply.steps {
            match step {
                Step::Bytes(bytes) => {
                    if writer.write_all(&bytes).await.is_err() {
                        return false;
                    }
                }
                Step::Wait(gate) => gate.pass().await,
                Step::Hang => std::future::pending().await,
                Step::Cut => return false,
                Step::Reset => {
                    writer.as_ref().set_zero_linger().unwrap();
                    return false;
                }
            }
        }
        true
    };
    tokio::pin!(writing);
    loop {
        tokio::select! {
            goes_on = &mut writing => return goes_on,
            count = reader.read_buf(read) => {
                if count.unwrap_or(0) == 0 {
                    return false;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, read: &mut Vec<u8>, connection: usize) -> Option<Recorded> {
    let end = loop {
        if let Some(end) = find(read, b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(read).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    assert!(!headers.iter().any(|(name, _)| name == "transfer-encoding"), "the length of a request is known: {head}");
    while read.len() < length {
        if stream.read_buf(read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some(Recorded {
        method: first.next().unwrap().to_owned(),
        target: first.next().unwrap().to_owned(),
        headers,
        body: read.drain(..length).collect(),
        connection,
    })
}
