use ai4free_ports::error::{LimiterDown, StoreError};

use crate::script::is_unknown_script;

/// Why Redis gave no usable answer. Never holds the URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("no answer within the deadline")]
    Timeout,
    #[error("suspended after timeouts in a row")]
    Suspended,
    #[error("refused by Redis or its connection")]
    Refused(#[source] fred::error::Error),
    #[error("not a reply of this version of the script")]
    Reply,
    #[error("the lease was voided before its reservation arrived")]
    Voided,
    #[error("this Redis is not fit for budgets: {0}")]
    Unfit(&'static str),
    #[error("another server answered while the epoch was attested")]
    OtherServer,
    #[error("the ledger attests no epoch")]
    Unattested(#[source] StoreError),
    #[error("the ledger can't be told what Redis remembers")]
    Untold(#[source] StoreError),
    #[error("the ledger attested an epoch that is over")]
    EpochOver,
    #[error("budgets are closed until the epoch of Redis is attested: {0}")]
    Closed(#[source] std::sync::Arc<Unavailable>),
}

impl Unavailable {
    /// Redis works, but is another one than was attested, or lost its scripts.
    pub(crate) fn is_unknown_script(&self) -> bool {
        matches!(self, Self::Refused(error) if is_unknown_script(error))
    }
}

impl From<Unavailable> for LimiterDown {
    fn from(unavailable: Unavailable) -> Self {
        Self(Box::new(unavailable))
    }
}
