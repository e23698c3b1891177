use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    budget::Holder,
    rate_limiter::{Certainty, LimitKind, SettledClaim, Settlement},
};
use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connections,
    copies::Copies,
    keys::{self, Keys},
    money,
    open_leases::OpenLeases,
    reservation::{count, countable},
    script::Arguments,
};

/// What requests may hand over while the settler is busy with something else.
const QUEUE: usize = 16_384;
/// What is kept while Redis is away.
const BACKLOG: usize = 100_000;
/// Settlements in one call, and how long the first of them waits for company.
const BATCH: usize = 16;
const GATHER: Duration = Duration::from_millis(2);
/// Calls at once: with one connection each, a slow round trip does not slow the queue down.
const CALLS: usize = 4;
const RETRY_AFTER: Duration = Duration::from_millis(250);
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Where requests leave their settlements.
pub(crate) struct SettleQueue {
    sender: mpsc::Sender<Settlement>,
    figures: Arc<Figures>,
}

/// Brings settlements from the queue to Redis.
pub(crate) struct Settler {
    receiver: mpsc::Receiver<Settlement>,
    backlog: VecDeque<Settlement>,
    figures: Arc<Figures>,
}

#[derive(Default)]
struct Figures {
    queued: AtomicUsize,
    dropped: AtomicU64,
}

impl SettleQueue {
    pub(crate) fn new() -> (Self, Settler) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let figures = Arc::new(Figures::default());
        let settler = Settler { receiver, backlog: VecDeque::new(), figures: Arc::clone(&figures) };
        (Self { sender, figures }, settler)
    }

    pub(crate) fn push(&self, settlement: Settlement) {
        self.figures.queued.fetch_add(1, Ordering::SeqCst);
        if self.sender.try_send(settlement).is_err() {
            self.figures.drop_one();
        }
    }

    pub(crate) fn queued(&self) -> usize {
        self.figures.queued.load(Ordering::SeqCst)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.figures.dropped.load(Ordering::Relaxed)
    }
}

impl Figures {
    fn drop_one(&self) {
        self.queued.fetch_sub(1, Ordering::SeqCst);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Settler {
    /// Runs until `shutdown` is cancelled and what is queued by then is settled, or 2 s have passed.
    pub(crate) async fn run(
        mut self,
        connections: &Connections,
        keys: &Keys,
        open: &OpenLeases,
        copies: &Copies,
        shutdown: &CancellationToken,
    ) {
        while !shutdown.is_cancelled() {
            if self.backlog.is_empty() {
                tokio::select! {
                    first = self.receiver.recv() => match first {
                        Some(first) => self.keep(first),
                        None => return,
                    },
                    () = shutdown.cancelled() => break,
                }
                self.receive_for(GATHER, BATCH).await;
            }
            if !self.flush(connections, keys, open, copies).await {
                tokio::select! {
                    () = self.receive_for(RETRY_AFTER, usize::MAX) => {}
                    () = shutdown.cancelled() => break,
                }
            }
        }
        self.receiver.close();
        if timeout(SHUTDOWN, self.finish(connections, keys, open, copies)).await.is_err() {
            tracing::warn!(
                settlements = self.backlog.len(),
                "rate-limit settlements were not delivered before shutdown"
            );
        }
    }

    async fn finish(&mut self, connections: &Connections, keys: &Keys, open: &OpenLeases, copies: &Copies) {
        loop {
            while let Ok(settlement) = self.receiver.try_recv() {
                self.keep(settlement);
            }
            if self.backlog.is_empty() {
                return;
            }
            if !self.flush(connections, keys, open, copies).await {
                sleep(RETRY_AFTER).await;
            }
        }
    }

    /// Receives for some time, or until there are `enough`.
    async fn receive_for(&mut self, time: Duration, enough: usize) {
        let end = sleep(time);
        tokio::pin!(end);
        while self.backlog.len() < enough {
            tokio::select! {
                Some(next) = self.receiver.recv() => self.keep(next),
                () = &mut end => return,
            }
        }
    }

    /// Sends the oldest of the backlog. What fails goes to its end: a settlement is idempotent and its place is of no matter.
    async fn flush(&mut self, connections: &Connections, keys: &Keys, open: &OpenLeases, copies: &Copies) -> bool {
        let mut calls = Vec::with_capacity(CALLS);
        while calls.len() < CALLS && !self.backlog.is_empty() {
            let batch: Vec<Settlement> = self.backlog.drain(..self.backlog.len().min(BATCH)).collect();
            let kept: Vec<Option<String>> = batch.iter().map(|settlement| Copies::of(settlement, open)).collect();
            calls.push(async move {
                let sent = connections.call::<Vec<i64>>(|| arguments(keys, &batch, &kept, copies.room)).await;
                (batch, kept, sent)
            });
        }
        let sending = join_all(calls);
        tokio::pin!(sending);
        let answers = loop {
            tokio::select! {
                answers = &mut sending => break answers,
                Some(next) = self.receiver.recv() => self.keep(next),
            }
        };
        let mut delivered = true;
        for (batch, kept, sent) in answers {
            match sent {
                Ok(reply) => {
                    let mut are_kept = reply.into_iter().skip(1);
                    for (settlement, copy) in batch.iter().zip(kept) {
                        match copy {
                            Some(_) => copies.delivered(settlement.lease, are_kept.next(), open),
                            None => open.remove(settlement.lease),
                        }
                    }
                    self.figures.queued.fetch_sub(batch.len(), Ordering::SeqCst);
                }
                Err(error) => {
                    tracing::debug!(%error, "rate-limit settlements will be sent again");
                    delivered = false;
                    for mut settlement in batch {
                        if open.is_recorded(settlement.lease) {
                            settlement.events = Vec::new(); // nobody needs a copy, and there may be many to keep
                        }
                        self.keep(settlement);
                    }
                }
            }
        }
        delivered
    }

    fn keep(&mut self, settlement: Settlement) {
        if self.backlog.len() == BACKLOG {
            // The oldest has the least left to refund, and its concurrency expires by itself. Money does not: what is dropped
            // stays reserved until its window ends.
            let oldest = self.backlog.iter().position(|settlement| settlement.money.is_empty()).unwrap_or(0);
            self.backlog.remove(oldest);
            self.figures.drop_one();
        }
        self.backlog.push_back(settlement);
    }
}

fn arguments(keys: &Keys, batch: &[Settlement], copies: &[Option<String>], room: i64) -> Arguments {
    let mut arguments = keys.arguments("S");
    arguments.values.push(room.into());
    for (settlement, copy) in batch.iter().zip(copies) {
        let certainty = match settlement.certainty {
            Certainty::Held => "h",
            Certainty::Unknown => "u",
        };
        // Of an unknown lease the script knows itself what money it holds.
        let (money, holder) = match (settlement.certainty, settlement.holder) {
            (Certainty::Held, Some(Holder::Shared(epoch))) => (&*settlement.money, Some(epoch)),
            _ => (&[][..], None),
        };
        let lease = keys::lease(settlement.lease).into();
        let (counts, budgets) = (count(settlement.claims.len()), count(money.len()));
        arguments.values.extend([lease, certainty.into(), counts.into(), budgets.into()]);
        arguments.values.push(copy.as_deref().unwrap_or_default().into());
        for SettledClaim { claim, actual } in &settlement.claims {
            arguments.keys.push(keys.claim(claim));
            match claim.kind {
                LimitKind::Concurrency => arguments.values.push("c".into()),
                LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => {
                    let used = match settlement.certainty {
                        Certainty::Held => countable(*actual),
                        Certainty::Unknown => 0,
                    };
                    let reserved = countable(claim.amount);
                    arguments.values.extend(["w".into(), reserved.into(), (used - reserved).into()]);
                }
            }
        }
        if let Some(epoch) = holder {
            money.iter().for_each(|settled| money::push_settled(&mut arguments, keys, epoch, settled));
        }
    }
    arguments.keys.push(keys.replicas.clone());
    arguments
}

#[cfg(test)]
mod tests {
    use ai4free_ports::{
        budget::{Epoch, MoneyWindow},
        limits::OutagePolicy,
        money::{PicoUsd, PicoUsdSum},
        rate_limiter::{LeaseId, MoneyClaim, Scope, SettledMoney},
        request::RequestId,
    };

    use super::*;

    #[test]
    fn of_too_many_settlements_those_of_money_are_the_last_to_be_dropped() {
        let claim = MoneyClaim {
            scope: Scope::Gateway,
            window: MoneyWindow::TOTAL,
            limit: PicoUsdSum(100),
            amount: PicoUsd(10),
            is_top_up: false,
            on_redis_down: OutagePolicy::LocalShare,
        };
        let settlement = |number: usize, money| Settlement {
            lease: LeaseId { request: RequestId(uuid::Uuid::from_u128(number as u128)), number: 0 },
            claims: Vec::new(),
            money,
            holder: Some(Holder::Shared(Epoch(1))),
            certainty: Certainty::Held,
            events: Vec::new(),
        };
        let (_queue, mut settler) = SettleQueue::new();
        settler.keep(settlement(0, vec![SettledMoney { claim, actual: PicoUsd(7) }]));
        (1..=BACKLOG).for_each(|number| settler.keep(settlement(number, Vec::new())));
        let kept: Vec<u128> = settler.backlog.iter().take(2).map(|kept| kept.lease.request.0.as_u128()).collect();
        assert_eq!((settler.backlog.len(), kept), (BACKLOG, vec![0, 2]));
    }
}
