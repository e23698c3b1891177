//! A scripted provider on a real TCP socket: it records what it is asked, answers byte for byte what the script says, and
//! notices when the other side hangs up.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What the upstream does with one request.
#[derive(Clone, Debug)]
pub enum Step {
    Write(Vec<u8>),
    Wait(Duration),
    /// Keeps the connection open until the other side closes it.
    Hold,
    /// Closes the connection with a reset instead of an end.
    Reset,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Request line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

/// Lives as long as the value: its tasks end with it.
pub struct Upstream {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    hung_up: watch::Receiver<usize>,
    _serving: JoinSet<()>,
}

impl Upstream {
    /// Plays one script per request, in this order; the last one is played again for every further request.
    pub async fn start(scripts: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (hang_ups, hung_up) = watch::channel(0);
        let script = Arc::new(Mutex::new(scripts.into_iter().collect::<VecDeque<_>>()));
        let mut serving = JoinSet::new();
        let recorded = seen.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, script.clone(), recorded.clone(), hang_ups.clone()));
            }
        });
        Self { port, seen, hung_up, _serving: serving }
    }

    /// With `http://`, without a path and without a final slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    /// Waits until a request has arrived whole.
    pub async fn wait_for_request(&self) {
        while self.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Panics unless the other side closes a connection that is held, within 100 ms.
    pub async fn assert_hung_up(&self) {
        let mut hung_up = self.hung_up.clone();
        let closed = tokio::time::timeout(Duration::from_millis(100), hung_up.wait_for(|count| *count > 0)).await;
        assert!(closed.is_ok(), "the upstream connection was not closed within 100 ms");
    }
}

async fn serve(
    mut socket: TcpStream,
    scripts: Arc<Mutex<VecDeque<Vec<Step>>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    hang_ups: watch::Sender<usize>,
) {
    while let Some(request) = read_request(&mut socket).await {
        seen.lock().expect("not poisoned").push(request);
        let script = {
            let mut scripts = scripts.lock().expect("not poisoned");
            if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }
        };
        for step in script.unwrap_or_default() {
            match step {
                Step::Write(bytes) => {
                    if socket.write_all(&bytes).await.is_err() {
                        hang_ups.send_modify(|count| *count += 1);
                        return;
                    }
                }
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Hold => {
                    while !matches!(socket.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {}
                    hang_ups.send_modify(|count| *count += 1);
                    return;
                }
                Step::Reset => {
                    socket.set_zero_linger().expect("set linger");
                    return;
                }
            }
        }
        // Every script says in its headers that the connection closes.
        let _ = socket.shutdown().await;
    }
}

/// `None` when the connection ends first.
async fn read_request(socket: &mut TcpStream) -> Option<Seen> {
    let mut read = Vec::new();
    let head_end = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&read[..head_end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().expect("content-length"))
    });
    let whole = head_end + length.unwrap_or(0);
    while read.len() < whole {
        if socket.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    Some(Seen { head, body: read[head_end..whole].to_vec() })
}
