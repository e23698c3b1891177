//! Sums of whole hours, and the rows behind them.

use std::collections::BTreeMap;

use ai4free_ports::{
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::{Audience, Counters, Dimension, EventKind, UsageEvent, UsageReport},
};
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::{Expr, ExprTrait},
};
use time::{Date, Duration};

use crate::{
    database::Database,
    entity::{usage_event, usage_hour, usage_provider_hour, usage_user_hour},
    event_row::{self, Code},
    event_span::{ADMISSION, day_of, first_id},
    failure::Failure,
    keyset::{after, before},
    limbs::Limbs,
    rollup::{HourlySums, hour_of},
};

/// Most rows that [`recent`] returns.
const RECENT_ROWS: u16 = 1000;
/// Most charges of one page.
const CHARGES: u64 = 500;

pub(crate) async fn report(
    database: &Database,
    audience: &Audience,
    from: Timestamp,
    to: Timestamp,
) -> Result<UsageReport, Failure> {
    let mut query = sums_of_hours(usage_hour::Entity::find().select_only(), from, to)
        .column_as(Expr::col(usage_hour::Column::Hour).div(24), "day")
        .column_as(usage_hour::Column::Model, "name")
        .group_by(Expr::col("day"))
        .group_by(usage_hour::Column::Model);
    if let Audience::Key(key) = audience {
        query = query.filter(usage_hour::Column::KeyId.eq(key.as_str()));
    }
    let mut report = UsageReport::default();
    for sums in query.into_model::<SumsOfDay>().all(&database.reader).await? {
        let day = i32::try_from(sums.day).map_err(|_| Failure::Corrupt("hour of a sum of usage".into()))?;
        let counters = sums.sums.counters();
        report.by_day.entry(day).or_default().add(&counters);
        report.by_model.entry(sums.name).or_default().add(&counters);
    }
    Ok(report)
}

pub(crate) async fn breakdown(
    database: &Database,
    by: Dimension,
    from: Timestamp,
    to: Timestamp,
) -> Result<BTreeMap<String, Counters>, Failure> {
    // What is not by key or user is read by the table whose rows are in the order of their hours.
    let providers = || usage_provider_hour::Entity::find().select_only();
    let named = |column| providers().column_as(column, "name").group_by(column);
    let rows = match by {
        Dimension::Key => {
            let column = usage_hour::Column::KeyId;
            let keys = usage_hour::Entity::find().select_only().column_as(column, "name").group_by(column);
            sums_of_hours(keys, from, to).into_model::<NamedSums>().all(&database.reader).await?
        }
        Dimension::User => {
            let column = usage_user_hour::Column::UserId;
            let users = usage_user_hour::Entity::find().select_only().column_as(column, "name").group_by(column);
            sums_of_hours(users, from, to).into_model::<NamedSums>().all(&database.reader).await?
        }
        Dimension::Model => {
            let models = named(usage_provider_hour::Column::Model);
            sums_of_hours(models, from, to).into_model::<NamedSums>().all(&database.reader).await?
        }
        Dimension::Provider => {
            let providers = named(usage_provider_hour::Column::Provider);
            sums_of_hours(providers, from, to).into_model::<NamedSums>().all(&database.reader).await?
        }
        Dimension::Day => {
            let day = Expr::col(usage_provider_hour::Column::Hour).div(24);
            let days = providers().column_as(day, "day").column_as(Expr::val(""), "name").group_by(Expr::col("day"));
            let days = sums_of_hours(days, from, to).into_model::<SumsOfDay>().all(&database.reader).await?;
            return days.into_iter().map(|row| Ok((date(row.day)?, row.sums.counters()))).collect();
        }
    };
    Ok(rows.into_iter().map(|row| (row.name, row.sums.counters())).collect())
}

pub(crate) async fn recent(database: &Database, audience: &Audience, limit: u16) -> Result<Vec<UsageEvent>, Failure> {
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
    let rows = query.all(&database.reader).await?;
    rows.into_iter().map(event_row::usage_event).collect()
}

pub(crate) async fn charges(
    database: &Database,
    from: Timestamp,
    to: Timestamp,
    last: Option<(RequestId, u16)>,
) -> Result<Vec<UsageEvent>, Failure> {
    use usage_event::Column::{AdmittedAt, Attempt, Day, Kind, RequestId as Request, Revision};
    let (earliest, latest) = (from.0.saturating_sub(ADMISSION), to.0.saturating_add(ADMISSION));
    let begin = match last {
        Some((request, attempt)) => (request.day(), request.0, i32::from(attempt)),
        None => (day_of(earliest), first_id(earliest), -1),
    };
    let in_order = |query: Select<usage_event::Entity>| {
        query.order_by_asc(Day).order_by_asc(Request).order_by_asc(Attempt).order_by_asc(Kind).order_by_asc(Revision)
    };
    let charges = usage_event::Entity::find()
        .filter(after([Day, Request, Attempt], [begin.0.into(), begin.1.into(), begin.2.into()]))
        .filter(before([Day, Request], [day_of(latest).into(), first_id(latest).into()]))
        .filter(Kind.eq(EventKind::Charge.code()))
        .filter(AdmittedAt.gte(from.0))
        .filter(AdmittedAt.lt(to.0))
        .limit(CHARGES);
    let charges = in_order(charges).all(&database.reader).await?;
    let (Some(first), Some(last)) = (charges.first(), charges.last()) else { return Ok(Vec::new()) };
    let corrections = usage_event::Entity::find()
        .filter(after([Day, Request, Attempt], [first.day.into(), first.request_id.into(), (first.attempt - 1).into()]))
        .filter(before([Day, Request, Attempt], [last.day.into(), last.request_id.into(), (last.attempt + 1).into()]))
        .filter(Kind.eq(EventKind::Adjustment.code()));
    let mut corrections = in_order(corrections).all(&database.reader).await?.into_iter().peekable();
    let mut events = Vec::with_capacity(charges.len());
    for charge in charges {
        let key = (charge.day, charge.request_id, charge.attempt);
        events.push(event_row::usage_event(charge)?);
        // Those of charges that were admitted outside of the span are passed over.
        while let Some(correction) =
            corrections.next_if(|correction| (correction.day, correction.request_id, correction.attempt) <= key)
        {
            if (correction.day, correction.request_id, correction.attempt) == key {
                events.push(event_row::usage_event(correction)?);
            }
        }
    }
    Ok(events)
}

/// From the hour of `from` to the end of the last hour that begins before `to`.
fn sums_of_hours<E: HourlySums>(mut query: Select<E>, from: Timestamp, to: Timestamp) -> Select<E> {
    for column in E::count_columns() {
        // Postgres adds up bigint as numeric.
        query = query.column_as(Expr::col(column).sum().cast_as("bigint"), column);
    }
    let end = hour_of(to.0.saturating_sub(1)).saturating_add(1);
    query.filter(E::HOUR.gte(hour_of(from.0))).filter(E::HOUR.lt(end))
}

/// Days since the Unix epoch, as `2026-11-22`.
fn date(day: i64) -> Result<String, Failure> {
    let epoch = Date::from_ordinal_date(1970, 1).ok();
    let date = epoch.and_then(|epoch| epoch.checked_add(Duration::days(day)));
    date.map(|date| date.to_string()).ok_or_else(|| Failure::Corrupt("hour of a sum of usage".into()))
}

/// Sums of one UTC day and name.
#[derive(FromQueryResult)]
struct SumsOfDay {
    day: i64,
    name: String,
    #[sea_orm(nested)]
    sums: StoredSums,
}

#[derive(FromQueryResult)]
struct NamedSums {
    name: String,
    #[sea_orm(nested)]
    sums: StoredSums,
}

#[derive(FromQueryResult)]
struct StoredSums {
    requests: i64,
    successful: i64,
    cancelled: i64,
    input_tokens: i64,
    output_tokens: i64,
    cost_micro: i64,
    cost_rest: i64,
}

impl StoredSums {
    fn counters(&self) -> Counters {
        Counters {
            requests: unsigned(self.requests),
            successful: unsigned(self.successful),
            cancelled: unsigned(self.cancelled),
            input_tokens: unsigned(self.input_tokens),
            output_tokens: unsigned(self.output_tokens),
            cost: Limbs { micro: self.cost_micro, rest: self.cost_rest }.sum(),
        }
    }
}

/// Only a release without its hold could make a count negative.
fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
