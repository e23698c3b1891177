//! What a key has used.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    error::RequestError,
    runtime::{Clock, Timestamp},
    usage_journal::UsageJournal,
    usage_ledger::{Audience, UsageLedger, UsageReport},
};

use crate::application::{
    authentication::Principal,
    failure::{Failure, Unavailable},
};

/// How long a report waits for what has just ended to reach the ledger.
const FRESHNESS: Duration = Duration::from_millis(300);

pub struct Usage {
    pub ledger: Arc<dyn UsageLedger>,
    pub journal: Arc<dyn UsageJournal>,
    pub clock: Arc<dyn Clock>,
}

impl Usage {
    /// The caller's own usage, from everything or from `from` to `to` in whole hours.
    ///
    /// # Errors
    /// [`Failure::Request`] for an empty period, [`Failure::Unavailable`] when the ledger can't be read.
    pub async fn report(
        &self,
        principal: &Principal,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<UsageReport, Failure> {
        let from = from.unwrap_or_default();
        let to = to.unwrap_or_else(|| self.clock.now().saturating_add(Duration::from_secs(3600)));
        if to <= from {
            return Err(RequestError::new("'to' must be later than 'from'.").param("to").code("invalid_value").into());
        }
        self.journal.drained(FRESHNESS).await;
        let audience = Audience::Key(principal.key().id.clone());
        self.ledger.report(&audience, from, to).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "usage report failed");
            Failure::unavailable(Unavailable::UsageLedger)
        })
    }
}
