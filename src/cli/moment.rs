//! Instants as people write and read them.

use ai4free_ports::runtime::Timestamp;
use time::{
    Date, OffsetDateTime, PrimitiveDateTime, Time, format_description::well_known::Rfc3339, macros::format_description,
};

/// RFC 3339, or a day, which begins at midnight UTC.
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    let day = || Date::parse(text, format_description!("[year]-[month]-[day]"));
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| day().map(|day| PrimitiveDateTime::new(day, Time::MIDNIGHT).assume_utc()));
    let moment = moment.map_err(|_| "expected a day (2026-12-31) or a time (2026-12-31T23:59:59Z)".to_owned())?;
    Ok(Timestamp::from_seconds(moment.unix_timestamp()))
}

/// RFC 3339 in whole seconds.
pub(super) fn show(at: Timestamp) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(at.seconds()).ok();
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}

/// A day of a usage report, in days since the Unix epoch.
pub(super) fn show_day(day: i32) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(i64::from(day).saturating_mul(86_400)).ok();
    moment.map(|moment| moment.date().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_and_a_time_are_understood_and_shown() {
        assert_eq!(show(parse("2026-12-31").unwrap()), "2026-12-31T00:00:00Z");
        assert_eq!(show(parse("2026-12-31T23:59:59+01:00").unwrap()), "2026-12-31T22:59:59Z");
        assert!(parse("31.12.2026").unwrap_err().contains("2026-12-31"));
        assert_eq!(show_day(20_000), "2024-10-04");
    }
}
