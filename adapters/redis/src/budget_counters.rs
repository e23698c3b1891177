use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use ai4free_ports::{
    budget::{Epoch, GrantStanding, Holder, Spending},
    budget_counters::{BudgetCounters, CorrectionId},
    error::LimiterDown,
    money::PicoUsdSum,
    rate_limiter::Scope,
    runtime::Timestamp,
};
use async_trait::async_trait;
use fred::{
    clients::{Client, WithOptions},
    error::Error,
    interfaces::{HashesInterface, KeysInterface, SortedSetsInterface},
    types::{Key, Value},
};
use futures_util::future::try_join_all;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connections,
    keys::Keys,
    money,
    options::RedisOptions,
    script::{Arguments, Script},
    unavailable::Unavailable,
};

/// Nobody's request waits.
const PATIENCE: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Budgets that are read at once.
const PART: usize = 64;

/// [`BudgetCounters`] of the replicas with the same prefix. It is none of them: it holds nothing, and begins no epoch.
pub struct RedisBudgetCounters {
    connections: Connections,
    keys: Keys,
}

impl RedisBudgetCounters {
    /// The counters, and the worker that connects until `shutdown` is cancelled.
    pub fn connect(
        options: &RedisOptions,
        shutdown: CancellationToken,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let counters = Arc::new(Self {
            connections: Connections::new(options, Script::correction()),
            keys: Keys::new(&options.prefix, &options.replica),
        });
        let worker = Arc::clone(&counters);
        (counters, async move {
            worker.connections.run(&shutdown).await;
            worker.connections.close().await;
        })
    }

    /// Asks until there is an answer. What is asked here may be asked twice.
    async fn ask<T, F>(&self, question: impl Fn() -> F) -> Result<T, LimiterDown>
    where
        F: Future<Output = Result<T, Unavailable>>,
    {
        let answered = async {
            self.connections.connected().await;
            loop {
                match question().await {
                    Err(Unavailable::Timeout | Unavailable::Suspended) => sleep(ASK_AGAIN).await,
                    outcome => return outcome,
                }
            }
        };
        Ok(timeout(PATIENCE, answered).await.unwrap_or(Err(Unavailable::Timeout))?)
    }

    async fn command<T, F>(&self, command: impl Fn(WithOptions<Client>) -> F) -> Result<T, LimiterDown>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.ask(|| async { self.connections.within_deadline(command(self.connections.client()?.clone())).await }).await
    }
}

#[async_trait]
impl BudgetCounters for RedisBudgetCounters {
    async fn epoch(&self) -> Result<Option<Epoch>, LimiterDown> {
        let epoch = self.command(|client| async move { client.get::<Option<i64>, _>(&self.keys.epoch).await }).await?;
        Ok(epoch.map(Epoch))
    }

    async fn standings(
        &self,
        epoch: Epoch,
        budgets: &[(Scope, Timestamp)],
    ) -> Result<Vec<Option<GrantStanding>>, LimiterDown> {
        let mut standings = Vec::with_capacity(budgets.len());
        for part in budgets.chunks(PART) {
            let keys: Vec<Key> =
                part.iter().map(|(scope, start)| self.keys.budget_from(epoch, scope, *start)).collect();
            let read = |client: WithOptions<Client>| {
                let keys = keys.clone();
                async move {
                    let fields =
                        |key: Key| client.hmget::<Vec<Option<i64>>, _, _>(key, money::STANDING_FIELDS.to_vec());
                    try_join_all(keys.into_iter().map(fields)).await
                }
            };
            for fields in self.command(read).await? {
                standings.push(money::stored_standing(&fields)?);
            }
        }
        Ok(standings)
    }

    async fn is_anything_given_up(&self) -> Result<bool, LimiterDown> {
        let count = |client: WithOptions<Client>| async move { client.zcard::<u64, _>(&self.keys.given_up).await };
        Ok(self.command(count).await? > 0)
    }

    async fn correct(&self, id: CorrectionId, changes: &[(Spending, PicoUsdSum)]) -> Result<(), LimiterDown> {
        let mut sums = HashMap::<Key, PicoUsdSum>::new();
        for (spending, change) in changes {
            if let Holder::Shared(epoch) = spending.holder {
                let key = self.keys.budget_from(epoch, &spending.scope, spending.window);
                *sums.entry(key).or_default() += *change;
            }
        }
        if sums.is_empty() {
            return Ok(());
        }
        let number = i64::try_from(id.number).unwrap_or(i64::MAX);
        let arguments = || {
            let mut arguments = Arguments { keys: vec![self.keys.corrections(id.run)], values: vec![number.into()] };
            for (key, sum) in &sums {
                arguments.keys.push(key.clone());
                arguments.values.extend(money::limbs(*sum).map(Value::from));
            }
            arguments
        };
        self.ask(|| self.connections.call::<i64>(arguments)).await.map(|_| ())
    }
}
