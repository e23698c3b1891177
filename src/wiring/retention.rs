//! Old usage events expire, once a day.

use std::{sync::Arc, time::Duration};

use ai4free_ports::runtime::{Clock, Timestamp};
use ai4free_sql::Database;
use tokio_util::sync::CancellationToken;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// After a failure: a table that was in use, or a database that was away.
const RETRY: Duration = Duration::from_secs(15 * 60);

/// Lets go what is older than `kept`, now and then every day, until `end`. Several processes may do so at once.
pub(super) async fn expire_daily(database: Database, clock: Arc<dyn Clock>, kept: Duration, end: CancellationToken) {
    while !end.is_cancelled() {
        let pause = match ai4free_sql::expire(&database, first_day(clock.now(), kept)).await {
            Ok(first_day) => {
                tracing::debug!(first_day, "older usage events have expired");
                DAY
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "old usage events can't expire now");
                RETRY
            }
        };
        end.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// The first day that is kept whole, in days since the Unix epoch.
fn first_day(now: Timestamp, kept: Duration) -> i32 {
    let earliest = now.seconds().saturating_sub_unsigned(kept.as_secs());
    i32::try_from(earliest.div_euclid(86_400)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_younger_than_the_setting_expires() {
        let at = |day: i64, second: i64| Timestamp::from_seconds(day * 86_400 + second);
        assert_eq!(first_day(at(20_000, 0), DAY), 19_999);
        assert_eq!(first_day(at(20_000, 86_399), DAY), 19_999);
        assert_eq!(first_day(at(20_000, 5), DAY * 400), 19_600);
    }
}
