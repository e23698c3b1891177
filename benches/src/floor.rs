//! The least that a gateway can cost: hyper in, hyper out, and nothing between. It reads no body.

use std::net::SocketAddr;

use anyhow::Context;
use hyper::{Request, Uri, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpListener;

type Upstream = Client<HttpConnector, Incoming>;

pub(crate) async fn serve(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstream = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(1024)
        .build(connector);
    let listener = TcpListener::bind(listen).await.context("the proxy can't listen")?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = client.clone();
        tokio::spawn(async move {
            let pass_on = service_fn(move |request| {
                let sent = pass_on(request, upstream).map(|request| client.request(request));
                async move { anyhow::Ok(sent?.await?) }
            });
            // A client that goes away is no fault.
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), pass_on).await;
        });
    }
}

fn pass_on(mut request: Request<Incoming>, upstream: SocketAddr) -> anyhow::Result<Request<Incoming>> {
    let path = request.uri().path_and_query().context("a request without a path")?.clone();
    *request.uri_mut() = Uri::builder().scheme("http").authority(upstream.to_string()).path_and_query(path).build()?;
    request.headers_mut().remove(header::HOST);
    Ok(request)
}
