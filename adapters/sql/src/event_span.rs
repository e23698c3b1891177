//! Which part of the primary key holds the events of some time.

use sea_orm::{ColumnTrait, Condition, entity::prelude::Uuid};

use crate::entity::usage_event;

/// A request gets its id when it arrives, and is admitted at most this much later. Clocks that are set fall within it as well.
pub(crate) const ADMISSION: i64 = 600 * 1_000_000;
pub(crate) const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The events that were admitted from `from` up to `to`, in microseconds: for each day of ids that may hold some, a condition
/// that reads a range of the primary key.
pub(crate) fn admitted(from: i64, to: i64) -> Vec<Condition> {
    if from >= to {
        return Vec::new();
    }
    let (earliest, latest) = (from.saturating_sub(ADMISSION), to.saturating_add(ADMISSION));
    let of_day = |day| {
        Condition::all()
            .add(usage_event::Column::Day.eq(day))
            .add(usage_event::Column::RequestId.gte(first_id(earliest)))
            .add(usage_event::Column::RequestId.lt(first_id(latest)))
            .add(usage_event::Column::AdmittedAt.gte(from))
            .add(usage_event::Column::AdmittedAt.lt(to))
    };
    (day_of(earliest)..=day_of(latest)).map(of_day).collect()
}

/// The smallest id that can have been made at a time: the first 48 bits are milliseconds
/// (<https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7>).
pub(crate) fn first_id(micros: i64) -> Uuid {
    match u128::try_from(micros.div_euclid(1000)).unwrap_or(0) {
        millis if millis < 1 << 48 => Uuid::from_u128(millis << 80),
        _ => Uuid::from_u128(u128::MAX),
    }
}

/// When an id was made, in microseconds.
pub(crate) fn arrived_at(id: Uuid) -> i64 {
    i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX).saturating_mul(1000)
}

/// As the day of an id.
pub(crate) fn day_of(micros: i64) -> i32 {
    i32::try_from(micros.max(0) / MICROS_PER_DAY).unwrap_or(i32::MAX)
}
