//! Accepts, reads, answers.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{answer::Question, paced::Paced, script::Script};

type Answer = Either<Full<Bytes>, Paced>;

pub(crate) async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.context("the upstream can't listen")?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that goes away is no fault.
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

/// A request that is none ends its connection, and is counted as failed by whoever sent it.
async fn answer(request: Request<Incoming>) -> anyhow::Result<Response<Answer>> {
    let body = request.into_body().collect().await?.to_bytes();
    let question: Question<'_> = serde_json::from_slice(&body)?;
    let response = Response::builder();
    if !question.stream {
        let whole = Full::new(question.completion());
        return Ok(response.header(CONTENT_TYPE, "application/json").body(Either::Left(whole))?);
    }
    let script = Script::of(&question.model);
    let stream = Paced::new(question.events(script.chunks), script.pause);
    let response = response.header(CONTENT_TYPE, "text/event-stream; charset=utf-8").header(CACHE_CONTROL, "no-cache");
    Ok(response.body(Either::Right(stream))?)
}
