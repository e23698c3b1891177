//! Exit codes, in one place.

use std::process::ExitCode;

use ai4free_ports::error::{LimiterDown, RequestError, StoreError};

use crate::{
    application::failure::{Failure, Unavailable},
    config::ConfigErrors,
    telemetry::InvalidSetting,
    wiring::Misconfigured,
};

/// Numbers of `sysexits.h`, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitStatus {
    Success,
    Failure,
    /// What was asked for makes no sense; clap uses it too.
    Usage,
    /// A dependency is down: try again later (`EX_UNAVAILABLE`).
    Unavailable,
    /// The configuration is wrong: trying again will not help (`EX_CONFIG`).
    Configuration,
}

/// The arguments are understood and can't be followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misuse(pub(super) String);

impl ExitStatus {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unavailable => 69,
            Self::Configuration => 78,
        }
    }

    /// The outermost cause that says what kind of problem it is decides.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(kind).unwrap_or(Self::Failure)
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}

fn kind(error: &(dyn std::error::Error + 'static)) -> Option<ExitStatus> {
    if error.is::<ConfigErrors>() || error.is::<Misconfigured>() || error.is::<InvalidSetting>() {
        return Some(ExitStatus::Configuration);
    }
    if error.is::<Misuse>() || error.is::<RequestError>() {
        return Some(ExitStatus::Usage);
    }
    if error.is::<LimiterDown>() {
        return Some(ExitStatus::Unavailable);
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(match error {
            StoreError::Unavailable(_) => ExitStatus::Unavailable,
            StoreError::Conflict(_) | StoreError::Corrupt(_) => ExitStatus::Failure,
        });
    }
    match error.downcast_ref::<Failure>()? {
        Failure::Request(_) => Some(ExitStatus::Usage),
        Failure::Unavailable { what, .. } => Some(match what {
            Unavailable::Gateway
            | Unavailable::KeyStore
            | Unavailable::RateLimiter
            | Unavailable::UsageJournal
            | Unavailable::UsageLedger => ExitStatus::Unavailable,
            Unavailable::Plan => ExitStatus::Configuration,
        }),
        _ => Some(ExitStatus::Failure),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::Context;

    use super::*;
    use crate::config::Problem;

    fn code(error: impl Into<anyhow::Error>) -> u8 {
        ExitStatus::of(&error.into()).code()
    }

    #[test]
    fn a_dependency_that_is_down_is_69_however_deep_it_is() {
        let down = || StoreError::Unavailable("connection refused".into());
        assert_eq!(code(down()), 69);
        assert_eq!(code(Err::<(), _>(down()).context("can't list keys").context("keys list").unwrap_err()), 69);
        assert_eq!(code(LimiterDown("no route".into())), 69);
        assert_eq!(code(Failure::unavailable(Unavailable::KeyStore)), 69);
        assert_eq!(code(Failure::Unavailable { what: Unavailable::UsageLedger, retry_after: Duration::ZERO }), 69);
    }

    #[test]
    fn a_wrong_configuration_is_78() {
        let problem = Problem { path: "server.listen".to_owned(), origin: None, message: "no address".to_owned() };
        assert_eq!(code(ConfigErrors::from(problem)), 78);
        assert_eq!(code(Misconfigured("another pepper".to_owned())), 78);
        assert_eq!(code(InvalidSetting { setting: "telemetry.level", problem: "no level".to_owned() }), 78);
    }

    #[test]
    fn what_makes_no_sense_is_2_and_the_rest_is_1() {
        assert_eq!(code(Misuse("--yes is missing".to_owned())), 2);
        assert_eq!(code(Failure::from(RequestError::new("'name' is wrong"))), 2);
        assert_eq!(code(Failure::NotFound("key")), 1);
        assert_eq!(code(StoreError::Corrupt("row".into())), 1);
        assert_eq!(code(anyhow::anyhow!("no idea")), 1);
    }
}
