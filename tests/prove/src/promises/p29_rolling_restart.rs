//! Two replicas restart in turn, under steady load with streams, behind a balancer that looks at `/readyz`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};

use super::{Company, Promise, Stage};
use crate::{
    findings::Findings,
    load::{self, Lane, Order},
    oracle::{self, Reconciliation},
    rig::{
        Signal,
        catalogue::{CHEAP, Usage},
        client::Request,
        dice::Dice,
    },
    upstream::Script,
};

pub(super) const PROMISE: Promise = Promise {
    id: "P29",
    title: "a rolling restart fails no request and cuts no stream",
    company: Company::None,
    prove: |stage| prove(stage).boxed_local(),
};

const LANES: usize = 12;
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// The grace of a replica that is told to stop, and its drain.
const END: Duration = Duration::from_secs(30);

async fn prove(stage: Stage<'_>) -> Findings {
    let mut findings = Findings::default();
    let (restarts, dice) = (stage.count(3, 10), stage.dice());
    // A short form of the default, 5 s.
    let pre_stop = if stage.is_full() { 2 } else { 1 };
    let builder = stage.services.rig().replicas(2);
    let mut rig = builder.set("AI4FREE__SERVER__PRE_STOP_SECONDS", &pre_stop.to_string()).start().await;
    let balancer = Balancer::before(rig.gateways.iter().map(|gateway| gateway.address).collect());
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Lane::new(rig.gateways[0].key(json!({})).await, rig.gateways[0].address));
    }
    let over = Arc::new(Mutex::new(false));
    let load = tokio::spawn({
        let (backends, over, dice) = (balancer.backends.clone(), over.clone(), dice.clone());
        async move {
            load::drive_paced(lanes, &dice, Duration::from_millis(5), move |dice, lane| {
                if *over.lock().unwrap() {
                    return None;
                }
                lane.aim(choose(&backends, dice)?);
                Some(any(dice))
            })
            .await
        }
    });
    let mut unready_in = Vec::new();
    for restart in 0..restarts {
        let number = usize::try_from(restart % 2).unwrap();
        let gateway = &mut rig.gateways[number];
        sleep(Duration::from_millis(400)).await;
        let told = Instant::now();
        gateway.process.signal(Signal::Terminate);
        while gateway.is_ready().await {
            sleep(Duration::from_millis(2)).await;
        }
        unready_in.push(told.elapsed());
        let status = gateway.process.wait(END).await;
        findings.require(status.success(), || format!("a replica that was told to stop ended with {status}"));
        gateway.start_again().await;
        balancer.replace(number, gateway.address);
        balancer.until_ready(number).await;
    }
    sleep(Duration::from_millis(300)).await;
    *over.lock().unwrap() = true;
    let lanes = load.await.unwrap();
    let journal = load::journal(&lanes);
    let failures = oracle::failures(journal.iter().copied());
    findings.figure("restarts", restarts);
    findings.figure("pre_stop_seconds", pre_stop);
    findings.figure("requests", journal.len());
    findings.figure("streams", journal.iter().filter(|sent| sent.order.is_stream).count());
    findings.spread("unready_after_sigterm", &mut unready_in);
    findings.exactly("failed_requests_and_cut_streams", 0, failures.len() as i128);
    failures.first().inspect(|first| findings.violation((*first).clone()));
    let events = rig.ledger().await;
    let reconciliation = Reconciliation::of(journal, &rig.upstream.journal, &events);
    reconciliation.each_call_is_charged_once(&mut findings);
    reconciliation.complete_ones_are_exact(&mut findings);
    rig.check_ledger(&mut findings).await;
    findings.exactly("panics", 0, rig.finish().await as i128);
    findings
}

/// Two thirds are streams of up to a second.
fn any(dice: &mut Dice) -> Order {
    let usage = Usage { input: dice.within(1..900).try_into().unwrap(), output: 20, ..Usage::default() };
    let script = Script::reporting(20, usage.on_the_wire()).delay(dice.within(1..50));
    let order = Order::new(CHEAP, usage, script);
    if dice.percent(66) { order.streamed(true) } else { order }
}

type Backends = Arc<Mutex<Vec<(SocketAddr, bool)>>>;

/// As a load balancer of Kubernetes sees its endpoints: late, by up to one probe.
struct Balancer {
    backends: Backends,
    probing: JoinHandle<()>,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.probing.abort();
    }
}

impl Balancer {
    fn before(addresses: Vec<SocketAddr>) -> Self {
        let backends: Backends = Arc::new(Mutex::new(addresses.into_iter().map(|address| (address, true)).collect()));
        let probing = tokio::spawn({
            let backends = backends.clone();
            async move {
                loop {
                    let addresses: Vec<SocketAddr> =
                        backends.lock().unwrap().iter().map(|(address, _)| *address).collect();
                    for (number, address) in addresses.into_iter().enumerate() {
                        let probed = Request::new("GET", "/readyz").send(address).await;
                        let is_ready = probed.is_ok_and(|reply| reply.status == 200);
                        let mut backends = backends.lock().unwrap();
                        if backends[number].0 == address {
                            backends[number].1 = is_ready;
                        }
                    }
                    sleep(PROBE_EVERY).await;
                }
            }
        });
        Self { backends, probing }
    }

    fn replace(&self, number: usize, address: SocketAddr) {
        self.backends.lock().unwrap()[number] = (address, false);
    }

    async fn until_ready(&self, number: usize) {
        while !self.backends.lock().unwrap()[number].1 {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// `None` when no replica is ready, which ends the load: then there are fewer requests, and the proof has failed by itself.
fn choose(backends: &Backends, dice: &mut Dice) -> Option<SocketAddr> {
    let ready: Vec<SocketAddr> =
        backends.lock().unwrap().iter().filter(|(_, is_ready)| *is_ready).map(|(address, _)| *address).collect();
    (!ready.is_empty()).then(|| *dice.pick(&ready))
}
