//! [`UsageLedger`] in SQL.

use std::{collections::BTreeMap, time::Duration};

use ai4free_ports::{
    budget::{Epoch, Holder, MoneyWindow},
    error::StoreError,
    money::PicoUsdSum,
    rate_limiter::Scope,
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::{
        Appended, Attachment, Audience, Batch, BudgetSum, Counters, Dimension, GrantAnswer, GrantRequest, Recovered,
        Remains, Share, SpoolId, UsageEvent, UsageLedger, UsageReport, Verification,
    },
};
use async_trait::async_trait;

use crate::{
    append,
    database::Database,
    epochs,
    failure::{in_the_background, while_a_client_waits, while_verifying},
    grants, recovery, reports, shares, spools, verification,
};

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
        in_the_background(spools::attach(&self.database, spool)).await
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, StoreError> {
        in_the_background(Box::pin(append::append(&self.database, batch))).await
    }

    async fn report(&self, audience: &Audience, from: Timestamp, to: Timestamp) -> Result<UsageReport, StoreError> {
        while_a_client_waits(reports::report(&self.database, audience, from, to)).await
    }

    async fn recent(&self, audience: &Audience, limit: u16) -> Result<Vec<UsageEvent>, StoreError> {
        while_a_client_waits(reports::recent(&self.database, audience, limit)).await
    }

    async fn grant(&self, request: &GrantRequest) -> Result<GrantAnswer, StoreError> {
        while_a_client_waits(Box::pin(grants::grant(&self.database, request))).await
    }

    async fn lower(
        &self,
        scope: &Scope,
        window: &MoneyWindow,
        holder: Holder,
        granted: PicoUsdSum,
    ) -> Result<(), StoreError> {
        in_the_background(Box::pin(grants::lower(&self.database, scope, window, holder, granted))).await
    }

    async fn attest(&self, run_id: &str, lost: Option<Epoch>) -> Result<Epoch, StoreError> {
        while_a_client_waits(Box::pin(epochs::attest(&self.database, run_id, lost))).await
    }

    async fn close_holders(&self, spool: SpoolId, generation: i64) -> Result<(), StoreError> {
        in_the_background(spools::close_holders(&self.database, spool, generation)).await
    }

    async fn beat(&self, spool: SpoolId, generation: i64, closed_epoch: Epoch) -> Result<(), StoreError> {
        in_the_background(spools::beat(&self.database, spool, generation, closed_epoch)).await
    }

    async fn retire(&self, spool: SpoolId, generation: i64) -> Result<(), StoreError> {
        in_the_background(spools::retire(&self.database, spool, generation)).await
    }

    async fn recover(&self, spool: SpoolId, remains: &Remains, silence: Duration) -> Result<Recovered, StoreError> {
        in_the_background(Box::pin(recovery::recover(&self.database, spool, remains, silence))).await
    }

    async fn budget(&self, scope: &Scope, window: &MoneyWindow) -> Result<BudgetSum, StoreError> {
        while_a_client_waits(grants::budget(&self.database, scope, window)).await
    }

    async fn breakdown(
        &self,
        by: Dimension,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<String, Counters>, StoreError> {
        while_a_client_waits(reports::breakdown(&self.database, by, from, to)).await
    }

    async fn charges(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<(RequestId, u16)>,
    ) -> Result<Vec<UsageEvent>, StoreError> {
        in_the_background(reports::charges(&self.database, from, to, after)).await
    }

    async fn verify(&self, from: Timestamp, to: Timestamp) -> Result<Verification, StoreError> {
        while_verifying(Box::pin(verification::verify(&self.database, from, to))).await
    }

    async fn shares(
        &self,
        holder: Holder,
        at: Timestamp,
        after: Option<&(Scope, Timestamp)>,
    ) -> Result<Vec<Share>, StoreError> {
        in_the_background(shares::shares(&self.database, holder, at, after)).await
    }

    async fn share(&self, holder: Holder, scope: &Scope, window: Timestamp) -> Result<Option<Share>, StoreError> {
        in_the_background(shares::share(&self.database, holder, scope, window)).await
    }

    async fn silent(&self, longer_than: Duration) -> Result<u64, StoreError> {
        in_the_background(spools::silent(&self.database, longer_than)).await
    }
}
