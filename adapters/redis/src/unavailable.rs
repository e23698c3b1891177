use ai4free_ports::error::LimiterDown;

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
}

impl From<Unavailable> for LimiterDown {
    fn from(unavailable: Unavailable) -> Self {
        Self(Box::new(unavailable))
    }
}
