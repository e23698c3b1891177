//! The counters of budgets, read and corrected by who is no replica.

use std::sync::Arc;

use ai4free_contract::rate_limiter::{claims, lease, money_claim, spent};
use ai4free_ports::{
    budget::{Epoch, GrantStanding, Holder, MoneyWindow, Spending},
    budget_counters::{BudgetCounters, CorrectionId},
    money::PicoUsdSum,
    rate_limiter::{RateLimiter, Scope},
    runtime::Timestamp,
    usage_ledger::SpoolId,
};
use ai4free_redis::RedisBudgetCounters;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    server::{RedisServer, Replica, eventually},
    spending::hold,
};

const BUDGET: (Scope, Timestamp) = (Scope::Gateway, MoneyWindow::TOTAL.start);

struct Counters {
    counters: Arc<RedisBudgetCounters>,
    _worker: JoinSet<()>,
}

impl Counters {
    fn of(server: &RedisServer) -> Self {
        let (counters, work) = RedisBudgetCounters::connect(&server.options("ledger"), CancellationToken::new());
        let mut worker = JoinSet::new();
        worker.spawn(work);
        Self { counters, _worker: worker }
    }

    async fn standing(&self, epoch: Epoch) -> Option<GrantStanding> {
        self.counters.standings(epoch, &[BUDGET]).await.unwrap()[0]
    }

    async fn correct(&self, run: u128, number: u64, changes: &[(Spending, i128)]) {
        let id = CorrectionId { run: SpoolId(Uuid::from_u128(run)), number };
        let changes: Vec<_> = changes.iter().map(|(spending, sum)| (spending.clone(), PicoUsdSum(*sum))).collect();
        self.counters.correct(id, &changes).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replicas_have_counted_is_read_and_nothing_else_is_made() {
    let Some(server) = RedisServer::start().await else { return };
    let counters = Counters::of(&server);
    assert_eq!(counters.counters.epoch().await.unwrap(), None);
    assert_eq!(server.command("DBSIZE").await, ":0");
    let replica = Replica::start(&server.options("one.1")).await;
    let Holder::Shared(epoch) = hold(&replica, 1, 60).await else { panic!("not out of a shared grant") };
    let holder = hold(&replica, 2, 50).await;
    let ended = claims(&[], &[money_claim(Scope::Gateway, MoneyWindow::TOTAL, i128::from(i64::MAX), 60)]);
    replica.limiter.settle(spent(lease(1), holder, &ended, &[7]));
    eventually("settled queue", || replica.limiter.queued_settlements() == 0).await;
    assert_eq!(counters.counters.epoch().await.unwrap(), Some(epoch));
    let known = replica.limiter.standing(&Scope::Gateway, &MoneyWindow::TOTAL).await.unwrap();
    let standing = counters.standing(epoch).await;
    assert_eq!(standing, known);
    assert_eq!(standing.map(|it| (it.settled.0, it.reserved.0)), Some((7, 50)));
    assert_eq!(counters.standing(Epoch(epoch.0 + 1)).await, None);
    assert!(!counters.counters.is_anything_given_up().await.unwrap());
    let many: Vec<_> = (0..150).map(|number| (Scope::Model(format!("m{number}").into()), Timestamp(0))).collect();
    let all = counters.counters.standings(epoch, &[&many[..], &[BUDGET]].concat()).await.unwrap();
    assert_eq!((all.len(), all.iter().flatten().count(), all[150]), (151, 1, standing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correction_changes_what_is_settled_once_however_often_it_is_said() {
    let Some(server) = RedisServer::start().await else { return };
    let counters = Counters::of(&server);
    let replica = Replica::start(&server.options("one.1")).await;
    let holder = hold(&replica, 1, 60).await;
    let Holder::Shared(epoch) = holder else { panic!("not out of a shared grant") };
    let spending = |holder| Spending { scope: BUDGET.0, window: BUDGET.1, holder };
    let here = spending(holder);
    let before = counters.standing(epoch).await.unwrap();
    let settled = async || {
        let now = counters.standing(epoch).await.unwrap();
        assert_eq!(GrantStanding { settled: before.settled, ..now }, before, "nothing else changes");
        now.settled.0
    };
    for _ in 0..3 {
        counters.correct(1, 0, &[(here.clone(), 5), (here.clone(), 2_000_000)]).await;
        assert_eq!(settled().await, 2_000_005);
    }
    // The next one of the same run, the first of another, and one that is late.
    counters.correct(1, 1, &[(here.clone(), -1_500_006)]).await;
    counters.correct(2, 0, &[(here.clone(), 1)]).await;
    counters.correct(1, 0, &[(here.clone(), 5)]).await;
    assert_eq!(settled().await, 500_000);
    // Of what is not counted here, nothing is made.
    let process = Holder::Process { spool: SpoolId(Uuid::from_u128(9)), generation: 1 };
    let over = Holder::Shared(Epoch(epoch.0 + 1));
    counters.correct(3, 0, &[(spending(process), 1), (spending(over), 1)]).await;
    assert_eq!((settled().await, counters.standing(Epoch(epoch.0 + 1)).await), (500_000, None));
    // The script is loaded again where it is not known.
    assert_eq!(server.command("SCRIPT FLUSH").await, "+OK");
    counters.correct(4, 0, &[(here.clone(), -500_000)]).await;
    assert_eq!(settled().await, 0);
}
