//! Waiting for what must come.

use std::time::{Duration, Instant};

use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(3);

/// Polls until there is something; panics when there is nothing for too long.
pub(crate) async fn eventually<T, F>(what: &str, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    eventually_within(PATIENCE, what, look).await
}

pub(crate) async fn eventually_within<T, F>(patience: Duration, what: &str, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    found_within(patience, look).await.unwrap_or_else(|| panic!("no {what} within {patience:?}"))
}

/// `None` when there is nothing for that long.
pub(crate) async fn found_within<T, F>(patience: Duration, mut look: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(POLL_EVERY).await;
    }
}
