//! A load from its begin to its end.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, header};
use serde_json::json;
use tokio::{
    runtime::Builder,
    task::{JoinSet, LocalSet},
    time::{sleep_until, timeout},
};

use super::{Connection, Load, Tally, pacer::Pacer, plan};
use crate::{
    arguments::LoadArguments,
    machine::{CpuTimes, Spent, resident_kib},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of a load that ends after a number of requests.
const LONGEST: Duration = Duration::from_secs(3600);

/// What a load did to those who bore it.
pub(crate) struct Outcome {
    /// Of the requests that ended within the span (at a rate: that were due in it).
    pub(crate) tally: Tally,
    pub(crate) span: Duration,
    /// Of the process that was watched, within the span.
    pub(crate) spent: Spent,
    /// All requests, also those of the warm-up.
    pub(crate) sent: u64,
}

impl Load {
    /// Runs it on this thread.
    pub(crate) fn run(&self, watched: u32) -> anyhow::Result<Outcome> {
        let runtime = Builder::new_current_thread().enable_all().build().context("can't make a runtime")?;
        LocalSet::new().block_on(&runtime, self.run_here(watched))
    }

    async fn run_here(&self, watched: u32) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let span = if self.most.is_some() { LONGEST } else { self.span };
        let (from, to) = (began + self.warm_up, began + self.warm_up + span);
        let pacer = Pacer::new(self, began, to)?;
        let tally = Rc::new(RefCell::new(Tally::new()?));
        let load = Rc::new(self.clone());
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            let worker = Worker { load: load.clone(), pacer: pacer.clone(), tally: tally.clone(), from, to };
            connections.spawn_local(worker.run());
        }
        sleep_until(from.into()).await;
        let before = CpuTimes::of(watched);
        if self.most.is_some() {
            all(&mut connections).await?;
        } else {
            sleep_until(to.into()).await;
        }
        let spent = CpuTimes::of(watched).since(&before);
        all(&mut connections).await?;
        let sent = pacer.sent().get();
        let tally = Rc::into_inner(tally).context("a connection has not ended")?.into_inner();
        Ok(Outcome { tally, span: self.span, spent, sent })
    }
}

impl Outcome {
    /// CPU time in microseconds.
    pub(crate) fn per_request(&self) -> f64 {
        micros(self.spent.total) / self.tally.ok as f64
    }

    pub(crate) fn per_event(&self) -> f64 {
        micros(self.spent.total) / self.tally.events as f64
    }

    pub(crate) fn rate(&self) -> f64 {
        self.tally.ok as f64 / self.span.as_secs_f64()
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

async fn all(connections: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

struct Worker {
    load: Rc<Load>,
    pacer: Pacer,
    tally: Rc<RefCell<Tally>>,
    from: Instant,
    to: Instant,
}

impl Worker {
    async fn run(self) -> anyhow::Result<()> {
        let mut connection = Connection::to(self.load.address);
        while let Some(due) = self.pacer.next().await {
            let request = self.load.request(self.pacer.sent().get())?;
            let asked = timeout(PATIENCE, connection.ask(request, self.load.is_stream)).await;
            let answer = asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {PATIENCE:?}")));
            // At a rate, what was due counts, however late it comes. In a closed loop what ended counts, however early it
            // began: so the edges cancel out.
            let counted = if self.load.rate.is_some() { due } else { Instant::now() };
            if (self.from..self.to).contains(&counted) {
                self.tally.borrow_mut().record(due, answer);
            }
        }
        Ok(())
    }
}

impl Load {
    pub(crate) fn request(&self, number: u64) -> anyhow::Result<Request<Full<Bytes>>> {
        let number = usize::try_from(number)?;
        let turn = |count: usize| number.checked_rem(count).unwrap_or_default();
        let body = self.bodies.get(turn(self.bodies.len())).context("a load without a body")?;
        let mut request = Request::post(&self.path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "ai4free-bench");
        if let Some(key) = self.keys.get(turn(self.keys.len())) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        Ok(request.body(Full::new(body.clone()))?)
    }
}

/// The role `load`.
pub(crate) fn by_hand(arguments: &LoadArguments) -> anyhow::Result<()> {
    let rest = arguments.url.strip_prefix("http://").context("a URL begins with http://")?;
    let (address, path) = rest.split_once('/').context("a URL has a path")?;
    let mut load = Load::closed(address.parse()?, &arguments.key, arguments.connections, Duration::from_secs(4));
    anyhow::ensure!(load.address.ip().is_loopback(), "only this machine is put under load");
    load.path = format!("/{path}");
    load.is_stream = arguments.stream;
    load.bodies = vec![plan::body(&arguments.model, arguments.prompt, arguments.stream)];
    load.rate = arguments.rate;
    let watched = arguments.pid.unwrap_or_else(std::process::id);
    let outcome = load.run(watched)?;
    println!(
        "{}",
        json!({
            "seen": outcome.tally.to_json(),
            "requests_per_second": outcome.rate(),
            "cpu_us_per_request": outcome.per_request(),
            "cpu_us_per_event": (outcome.tally.events > 0).then(|| outcome.per_event()),
            "cpu_us_by_thread": outcome.spent.by_thread.iter().map(|(name, ran)| (name, ran.as_micros())).collect::<Vec<_>>(),
            "resident_kib": resident_kib(watched),
        })
    );
    Ok(())
}
