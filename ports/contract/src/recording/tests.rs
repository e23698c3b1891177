use std::sync::Arc;

use ai4free_ports::usage_ledger::UsageLedger;
use async_trait::async_trait;

use super::RecordingLedger;
use crate::usage_ledger::Harness;

struct Recording(Arc<RecordingLedger>);

#[async_trait]
impl Harness for Recording {
    async fn fresh() -> Option<Self> {
        Some(Self(Arc::default()))
    }

    fn ledger(&self) -> Arc<dyn UsageLedger> {
        self.0.clone()
    }

    async fn end(self) {}
}

crate::usage_ledger_contract!(budgets Recording);
