//! `healthcheck`: whether a gateway is alive, for images that have neither a shell nor curl.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    arguments::GlobalArguments,
    exit::{ExitStatus, Misuse},
    output, session,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct HealthcheckArguments {
    /// `http://HOST:PORT`, with a path other than /livez if need be [default: where `serve` listens]
    url: Option<String>,
}

/// Where to ask, and what for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `HOST:PORT`.
    authority: String,
    path: String,
}

const PATH: &str = "/livez";
const PATIENCE: Duration = Duration::from_secs(3);
/// The status line is all that is read.
const MOST_BYTES: u64 = 1024;

pub(super) fn target(global: &GlobalArguments, arguments: &HealthcheckArguments) -> anyhow::Result<Target> {
    match &arguments.url {
        Some(url) => Ok(parse(url)?),
        None => Ok(reachable(session::settings(global.clone())?.server.listen)),
    }
}

/// Only 0 and 1: what runs health checks knows no other codes.
pub(super) async fn run(target: anyhow::Result<Target>) -> ExitStatus {
    let answered = async { ask(&target?).await };
    match answered.await {
        Ok(200) => ExitStatus::Success,
        Ok(status) => unhealthy(&format!("the gateway answers {status}")),
        Err(error) => unhealthy(&format!("{error:#}")),
    }
}

fn unhealthy(reason: &str) -> ExitStatus {
    output::complain(&format!("unhealthy: {reason}"));
    ExitStatus::Failure
}

fn parse(url: &str) -> Result<Target, Misuse> {
    let uri: http::Uri = url.parse().map_err(|_| Misuse(format!("`{url}` is no URL")))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(Misuse("expected http://HOST:PORT".to_owned()));
    };
    let path = uri.path_and_query().map(http::uri::PathAndQuery::as_str).filter(|path| *path != "/").unwrap_or(PATH);
    Ok(Target { authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)), path: path.to_owned() })
}

/// A gateway that listens on every address is asked on the loopback one.
fn reachable(listen: SocketAddr) -> Target {
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Target { authority: address.to_string(), path: PATH.to_owned() }
}

async fn ask(target: &Target) -> anyhow::Result<u16> {
    let answer = tokio::time::timeout(PATIENCE, exchange(target)).await.context("no answer in time")??;
    let status = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    status.context("the answer is not HTTP/1.1")
}

async fn exchange(target: &Target) -> anyhow::Result<Vec<u8>> {
    let Target { authority, path } = target;
    let mut connection =
        TcpStream::connect(authority).await.with_context(|| format!("can't connect to {authority}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(MOST_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answered_with(answer: &'static str) -> ExitStatus {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let read = connection.read(&mut request).await.unwrap();
            connection.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..read].to_vec()).unwrap()
        };
        let (status, request) = tokio::join!(run(Ok(parse(&url).unwrap())), serve);
        assert!(request.starts_with("GET /livez HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
        status
    }

    #[tokio::test]
    async fn only_a_200_is_healthy() {
        assert_eq!(answered_with("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await, ExitStatus::Success);
        assert_eq!(answered_with("HTTP/1.1 503 Service Unavailable\r\n\r\n").await, ExitStatus::Failure);
        assert_eq!(answered_with("SSH-2.0\r\n").await, ExitStatus::Failure);
    }

    #[tokio::test]
    async fn a_gateway_that_is_not_there_is_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(run(Ok(reachable(address))).await, ExitStatus::Failure);
        assert_eq!(run(Err(anyhow::anyhow!("no configuration"))).await, ExitStatus::Failure);
    }

    #[test]
    fn a_gateway_on_every_address_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:8080".parse().unwrap()).authority, "127.0.0.1:8080");
        assert_eq!(reachable("[::]:8080".parse().unwrap()).authority, "[::1]:8080");
        assert_eq!(
            parse("http://gateway:8080/readyz").unwrap(),
            Target { authority: "gateway:8080".into(), path: "/readyz".into() }
        );
        assert!(parse("https://gateway").is_err());
    }
}
