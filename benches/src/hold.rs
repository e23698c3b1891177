//! Streams in which nothing happens: a process of its own, so that its sockets are nobody else's.

use std::{io::Write, time::Duration};

use anyhow::{Context, ensure};
use http_body_util::BodyExt;
use hyper::StatusCode;
use tokio::task::LocalSet;

use crate::{
    arguments::Hold,
    load::{Connection, Load},
};

/// Says `open` when every stream has had its first event, and keeps them until it is killed.
pub(crate) async fn run(hold: &Hold) -> anyhow::Result<()> {
    LocalSet::new().run_until(open(hold)).await
}

async fn open(hold: &Hold) -> anyhow::Result<()> {
    let load = Load::closed(hold.address, &hold.key, 1, Duration::ZERO).streams("bench-hold");
    let mut streams = Vec::with_capacity(hold.streams);
    for _ in 0..hold.streams {
        let mut answer = Connection::to(hold.address).open(load.request(0)?).await?;
        ensure!(answer.status() == StatusCode::OK, "a stream was refused with {}", answer.status());
        answer.body_mut().frame().await.context("a stream ended")??;
        streams.push(answer);
    }
    println!("open");
    std::io::stdout().flush()?;
    std::future::pending().await
}
