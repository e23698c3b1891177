//! What a scope has spent between two instants: whole hours from the sums, the rest of the first and the last hour from the
//! events.

use ai4free_ports::{
    budget::MoneyWindow,
    money::{PICO_PER_MICRO, PicoUsdSum},
    rate_limiter::Scope,
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, Select,
    sea_query::{Expr, ExprTrait},
};

use crate::{
    entity::{usage_event, usage_hour, usage_provider_hour, usage_user_hour},
    event_span,
    failure::Failure,
    rollup::{HourlySums, MICROS_PER_HOUR},
};

/// By every event that the ledger has now, also by those that are charged to no budget.
pub(crate) async fn spent(
    connection: &impl ConnectionTrait,
    scope: &Scope,
    window: &MoneyWindow,
) -> Result<PicoUsdSum, Failure> {
    let (start, end) = (window.start.0, window.end.0);
    let first_hour = start.div_euclid(MICROS_PER_HOUR) + i64::from(start.rem_euclid(MICROS_PER_HOUR) > 0);
    let last_hour = end.div_euclid(MICROS_PER_HOUR);
    if first_hour > last_hour {
        return events(connection, scope, start, end).await;
    }
    let mut sum = hours(connection, scope, first_hour, last_hour).await?;
    sum += events(connection, scope, start, first_hour * MICROS_PER_HOUR).await?;
    sum += events(connection, scope, last_hour * MICROS_PER_HOUR, end).await?;
    Ok(sum)
}

async fn hours(connection: &impl ConnectionTrait, scope: &Scope, first: i64, end: i64) -> Result<PicoUsdSum, Failure> {
    let providers = usage_provider_hour::Entity::find();
    match scope {
        Scope::Key(key) => {
            let own = usage_hour::Entity::find().filter(usage_hour::Column::KeyId.eq(key.as_str()));
            cost_of_hours(connection, own, first, end).await
        }
        Scope::User(user) => {
            let own = usage_user_hour::Entity::find().filter(usage_user_hour::Column::UserId.eq(user.as_ref()));
            cost_of_hours(connection, own, first, end).await
        }
        Scope::Gateway => cost_of_hours(connection, providers, first, end).await,
        Scope::Model(model) => {
            let own = providers.filter(usage_provider_hour::Column::Model.eq(model.as_ref()));
            cost_of_hours(connection, own, first, end).await
        }
        Scope::Credential(credential) => {
            let own = providers.filter(usage_provider_hour::Column::Credential.eq(credential.as_ref()));
            cost_of_hours(connection, own, first, end).await
        }
    }
}

async fn cost_of_hours<E: HourlySums>(
    connection: &impl ConnectionTrait,
    sums: Select<E>,
    first: i64,
    end: i64,
) -> Result<PicoUsdSum, Failure> {
    let [.., micro, rest] = E::count_columns();
    let query = sums.select_only().filter(E::HOUR.gte(first)).filter(E::HOUR.lt(end));
    cost(connection, query, Expr::col(micro), Expr::col(rest)).await
}

async fn events(connection: &impl ConnectionTrait, scope: &Scope, from: i64, to: i64) -> Result<PicoUsdSum, Failure> {
    let mut sum = PicoUsdSum::default();
    for of_one_day in event_span::admitted(from, to) {
        let query = usage_event::Entity::find().select_only().filter(of_one_day);
        let query = match scope {
            Scope::Gateway => query,
            Scope::Key(key) => query.filter(usage_event::Column::KeyId.eq(key.as_str())),
            Scope::User(user) => query.filter(usage_event::Column::UserId.eq(user.as_ref())),
            Scope::Model(model) => query.filter(usage_event::Column::Model.eq(model.as_ref())),
            Scope::Credential(credential) => query.filter(usage_event::Column::Credential.eq(credential.as_ref())),
        };
        let pico = Expr::col(usage_event::Column::CostPico);
        let (micro, rest) = (pico.clone().div(PICO_PER_MICRO), pico.modulo(PICO_PER_MICRO));
        sum += cost(connection, query, micro, rest).await?;
    }
    Ok(sum)
}

async fn cost<E: EntityTrait>(
    connection: &impl ConnectionTrait,
    query: Select<E>,
    micro: Expr,
    rest: Expr,
) -> Result<PicoUsdSum, Failure> {
    // Postgres adds up bigint as numeric.
    let limbs: Option<(Option<i64>, Option<i64>)> = query
        .column_as(micro.sum().cast_as("bigint"), "micro")
        .column_as(rest.sum().cast_as("bigint"), "rest")
        .into_tuple()
        .one(connection)
        .await?;
    let (micro, rest) = limbs.unwrap_or_default();
    Ok(PicoUsdSum::from_limbs(micro.unwrap_or(0), rest.unwrap_or(0)))
}
