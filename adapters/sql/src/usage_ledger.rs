//! [`UsageLedger`] in SQL.

use std::collections::BTreeMap;

use ai4free_ports::{
    budget::{Epoch, MoneyWindow},
    error::StoreError,
    money::PicoUsdSum,
    rate_limiter::Scope,
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::{
        Appended, Attachment, Audience, Batch, BudgetSum, Counters, Dimension, GrantAnswer, GrantRequest, SpoolId,
        UsageEvent, UsageLedger, UsageReport, Verification,
    },
};
use async_trait::async_trait;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, OnConflict, Query},
};

use crate::{
    append,
    database::Database,
    entity::{spool, usage_event, usage_hour},
    event_row,
    failure::{Failure, in_the_background, while_a_client_waits},
    rollup::hour_of,
};

/// Most rows that [`UsageLedger::recent`] returns.
const RECENT_ROWS: u16 = 1000;

/// The ledger in Postgres or SQLite.
pub struct SqlUsageLedger {
    database: Database,
}

impl SqlUsageLedger {
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl UsageLedger for SqlUsageLedger {
    async fn attach(&self, spool: SpoolId) -> Result<Attachment, StoreError> {
        let next_generation = Expr::col((spool::Entity, spool::Column::Generation)).add(1);
        let mut attach = Query::insert();
        attach
            .into_table(spool::Entity)
            .columns([spool::Column::Id, spool::Column::Generation, spool::Column::Acknowledged])
            .values_panic([spool.0.into(), 1_i64.into(), 0_i64.into()])
            .on_conflict(
                OnConflict::column(spool::Column::Id).value(spool::Column::Generation, next_generation).to_owned(),
            )
            .returning(Query::returning().columns([spool::Column::Generation, spool::Column::Acknowledged]));
        in_the_background(async {
            let row = self.database.writer.query_one(&attach).await?;
            let row = row.ok_or_else(|| Failure::Corrupt("no row of a spool that was just attached".into()))?;
            let acknowledged: i64 = row.try_get_by_index(1)?;
            Ok(Attachment { generation: row.try_get_by_index(0)?, acknowledged: unsigned(acknowledged) })
        })
        .await
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, StoreError> {
        in_the_background(Box::pin(append::append(&self.database, batch))).await
    }

    async fn report(&self, audience: &Audience, from: Timestamp, to: Timestamp) -> Result<UsageReport, StoreError> {
        let end = hour_of(to.0.saturating_sub(1)).saturating_add(1);
        let mut query = usage_hour::Entity::find()
            .select_only()
            .column_as(Expr::col(usage_hour::Column::Hour).div(24), "day")
            .column(usage_hour::Column::Model)
            .filter(usage_hour::Column::Hour.gte(hour_of(from.0)))
            .filter(usage_hour::Column::Hour.lt(end))
            .group_by(Expr::col("day"))
            .group_by(usage_hour::Column::Model);
        for column in [
            usage_hour::Column::Requests,
            usage_hour::Column::Successful,
            usage_hour::Column::Cancelled,
            usage_hour::Column::InputTokens,
            usage_hour::Column::OutputTokens,
            usage_hour::Column::CostMicro,
            usage_hour::Column::CostRest,
        ] {
            // Postgres adds up bigint as numeric.
            query = query.column_as(Expr::col(column).sum().cast_as("bigint"), column);
        }
        if let Audience::Key(key) = audience {
            query = query.filter(usage_hour::Column::KeyId.eq(key.as_str()));
        }
        while_a_client_waits(async {
            let mut report = UsageReport::default();
            for sums in query.into_model::<Sums>().all(&self.database.reader).await? {
                let day = i32::try_from(sums.day).map_err(|_| Failure::Corrupt("hour of a sum of usage".into()))?;
                let counters = sums.counters();
                report.by_day.entry(day).or_default().add(&counters);
                report.by_model.entry(sums.model).or_default().add(&counters);
            }
            Ok(report)
        })
        .await
    }

    async fn recent(&self, audience: &Audience, limit: u16) -> Result<Vec<UsageEvent>, StoreError> {
        // The primary key backwards. A key that was silent for long is searched for until the deadline.
        let mut query = usage_event::Entity::find()
            .order_by_desc(usage_event::Column::Day)
            .order_by_desc(usage_event::Column::RequestId)
            .order_by_desc(usage_event::Column::Attempt)
            .order_by_desc(usage_event::Column::Kind)
            .order_by_desc(usage_event::Column::Revision)
            .limit(u64::from(Ord::min(limit, RECENT_ROWS)));
        if let Audience::Key(key) = audience {
            query = query.filter(usage_event::Column::KeyId.eq(key.as_str()));
        }
        while_a_client_waits(async {
            let rows = query.all(&self.database.reader).await?;
            rows.into_iter().map(event_row::usage_event).collect()
        })
        .await
    }

    async fn grant(&self, _: &GrantRequest) -> Result<GrantAnswer, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn attest(&self, _: &str, _: Option<Epoch>) -> Result<Epoch, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn close_holders(&self, _: SpoolId, _: i64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn budget(&self, _: &Scope, _: &MoneyWindow) -> Result<BudgetSum, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn breakdown(
        &self,
        _: Dimension,
        _: Timestamp,
        _: Timestamp,
    ) -> Result<BTreeMap<String, Counters>, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn charges(
        &self,
        _: Timestamp,
        _: Timestamp,
        _: Option<(RequestId, u16)>,
    ) -> Result<Vec<UsageEvent>, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn verify(&self, _: Timestamp, _: Timestamp) -> Result<Verification, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }
}

/// Sums of one UTC day and model.
#[derive(FromQueryResult)]
struct Sums {
    day: i64,
    model: String,
    requests: i64,
    successful: i64,
    cancelled: i64,
    input_tokens: i64,
    output_tokens: i64,
    cost_micro: i64,
    cost_rest: i64,
}

impl Sums {
    fn counters(&self) -> Counters {
        Counters {
            requests: unsigned(self.requests),
            successful: unsigned(self.successful),
            cancelled: unsigned(self.cancelled),
            input_tokens: unsigned(self.input_tokens),
            output_tokens: unsigned(self.output_tokens),
            cost: PicoUsdSum::from_limbs(self.cost_micro, self.cost_rest),
        }
    }
}

/// Only a release without its hold could make a count negative.
fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
