//! OpenAI's protocol over bare sockets: which end closes, and how, is part of a script.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::JoinHandle,
    time::sleep,
};

use super::{
    journal::UpstreamJournal,
    script::{Ending, Moment, PROOF_ID, SCRIPT, Script},
};

/// One piece of an answer: four bytes, a token by the estimate that the gateway uses when a request is interrupted.
pub(crate) const CHUNK_TEXT: &str = "tick";

/// Listens until it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) journal: UpstreamJournal,
    accepting: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let journal = UpstreamJournal::default();
        let accepting = tokio::spawn({
            let journal = journal.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, journal.clone()));
                }
            }
        });
        Self { address, journal, accepting }
    }
}

async fn serve(mut stream: TcpStream, journal: UpstreamJournal) {
    let _ = stream.set_nodelay(true);
    let mut read = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut read).await {
        journal.arrived(request.proof);
        let (mut reader, mut writer) = stream.split();
        let goes_on = tokio::select! {
            played = play(&request, &mut writer, &journal) => match played {
                Ok(goes_on) => goes_on,
                Err(_) => { journal.cancelled(request.proof); false }
            },
            () = gone(&mut reader, &mut read) => { journal.cancelled(request.proof); false }
        };
        if !goes_on {
            return;
        }
    }
}

/// Returns when the gateway closes its side.
async fn gone(reader: &mut ReadHalf<'_>, read: &mut Vec<u8>) {
    while reader.read_buf(read).await.unwrap_or(0) > 0 {}
}

struct Request {
    proof: u64,
    is_stream: bool,
    is_image: bool,
    model: String,
    /// What an upstream could repeat.
    credential: String,
    prompt: String,
    images: u64,
    script: Script,
}

async fn read_request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(read).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(read.drain(..end).collect()).unwrap();
    let header = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    while read.len() < length {
        if stream.read_buf(read).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let body: Value = serde_json::from_slice(&read.drain(..length).collect::<Vec<_>>()).unwrap();
    Some(Request {
        proof: body[PROOF_ID].as_u64().expect("a request without a proof id"),
        is_stream: body["stream"] == true,
        is_image: head.lines().next().unwrap().contains("/images/"),
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        credential: header("authorization").unwrap_or_default(),
        prompt: body["messages"].to_string(),
        images: body["n"].as_u64().unwrap_or(1),
        script: serde_json::from_value(body[SCRIPT].clone()).expect("a script"),
    })
}

/// Whether the connection goes on.
async fn play(request: &Request, writer: &mut WriteHalf<'_>, journal: &UpstreamJournal) -> std::io::Result<bool> {
    let mut stage = Stage { request, writer, journal };
    if let Ending::Status(status) = request.script.ending {
        return stage.refuse(status, "as the script says").await;
    }
    if let Ending::Echo(status) = request.script.ending {
        let message = format!("Incorrect API key provided: {}. The prompt was {}", request.credential, request.prompt);
        return stage.refuse(status, &message).await;
    }
    if let Some(goes_on) = stage.ends_at(Moment::BeforeHead).await? {
        return Ok(goes_on);
    }
    if !request.is_stream {
        return stage.answer_whole().await;
    }
    stage.stream().await
}

struct Stage<'a, 'b> {
    request: &'a Request,
    writer: &'a mut WriteHalf<'b>,
    journal: &'a UpstreamJournal,
}

impl Stage<'_, '_> {
    async fn refuse(&mut self, status: u16, message: &str) -> std::io::Result<bool> {
        let error = json!({"error": {"message": message, "type": "server_error", "code": null}});
        self.journal.completing(self.request.proof);
        self.whole(status, &error).await
    }

    async fn answer_whole(&mut self) -> std::io::Result<bool> {
        let script = &self.request.script;
        if script.delay_ms > 0 {
            sleep(Duration::from_millis(script.delay_ms)).await;
        }
        let body = if self.request.is_image {
            let data: Vec<Value> = (0..self.request.images).map(|_| json!({"b64_json": "AAAA"})).collect();
            json!({"created": 1, "data": data})
        } else {
            let text = CHUNK_TEXT.repeat(script.chunks as usize);
            let mut body = json!({
                "id": "chatcmpl-prove", "object": "chat.completion", "created": 1, "model": self.request.model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            });
            if let Some(usage) = &script.usage {
                body["usage"] = usage.clone();
            }
            body
        };
        self.journal.completing(self.request.proof);
        self.whole(200, &body).await
    }

    async fn whole(&mut self, status: u16, body: &Value) -> std::io::Result<bool> {
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.writer.write_all(head.as_bytes()).await?;
        Ok(true)
    }

    async fn stream(&mut self) -> std::io::Result<bool> {
        let script = &self.request.script;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        self.writer.write_all(head.as_bytes()).await?;
        if let Some(goes_on) = self.ends_at(Moment::BeforeFirst).await? {
            return Ok(goes_on);
        }
        for number in 0..script.chunks {
            if script.delay_ms > 0 && number > 0 {
                sleep(Duration::from_millis(script.delay_ms)).await;
            }
            self.event(&json!([{"index": 0, "delta": {"content": CHUNK_TEXT}, "finish_reason": null}])).await?;
            self.journal.wrote_chunk(self.request.proof);
            if let Some(goes_on) = self.ends_at(Moment::AfterChunks(number + 1)).await? {
                return Ok(goes_on);
            }
        }
        self.event(&json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])).await?;
        if let Some(usage) = &script.usage {
            let mut last = self.chunk(&json!([]));
            last["usage"] = usage.clone();
            self.piece(&format!("data: {last}\n\n")).await?;
        }
        self.journal.completing(self.request.proof);
        self.writer.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await?;
        Ok(true)
    }

    /// What the script says of this moment, if anything.
    async fn ends_at(&mut self, moment: Moment) -> std::io::Result<Option<bool>> {
        let ending = &self.request.script.ending;
        if ending.moment() != Some(moment) {
            return Ok(None);
        }
        match ending {
            Ending::Complete | Ending::Status(_) | Ending::Echo(_) => return Ok(None),
            Ending::Hang(_) => std::future::pending::<()>().await,
            Ending::Reset(_) => self.writer.as_ref().set_zero_linger()?,
            Ending::Cut(_) => {}
            Ending::ErrorEvent(_) => {
                let error = json!({"error": {"message": "as the script says", "type": "server_error"}});
                self.piece(&format!("data: {error}\n\n")).await?;
            }
        }
        self.journal.ended(self.request.proof);
        Ok(Some(false))
    }

    fn chunk(&self, choices: &Value) -> Value {
        json!({
            "id": "chatcmpl-prove", "object": "chat.completion.chunk", "created": 1, "model": self.request.model,
            "choices": choices,
        })
    }

    async fn event(&mut self, choices: &Value) -> std::io::Result<()> {
        let event = format!("data: {}\n\n", self.chunk(choices));
        self.piece(&event).await
    }

    async fn piece(&mut self, text: &str) -> std::io::Result<()> {
        self.writer.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
    }
}
