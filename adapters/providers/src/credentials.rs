//! A provider's credentials: the header that each makes, and until when it rests.
//!
//! A credential rests after an error that would meet the next request as well, so that routing can take another one. The
//! times are guesses that cost one request each when they are wrong; the provider's own `Retry-After` is better than any.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    llm_provider::CredentialInfo,
    provider_settings::{AuthStyle, ProviderSettings},
    runtime::{Clock, Timestamp},
};
use http::{HeaderName, HeaderValue, header::AUTHORIZATION};

use crate::BuildError;

const AFTER_REFUSAL: Duration = Duration::from_secs(60);
const AFTER_EXHAUSTION: Duration = Duration::from_secs(10 * 60);
const AFTER_RATE_LIMIT: Duration = Duration::from_secs(5);
const AFTER_FAILED_CONNECT: Duration = Duration::from_secs(5);
/// A provider that asks for more is asked again after this.
const LONGEST: Duration = Duration::from_secs(60 * 60);

pub(crate) struct Credentials {
    infos: Vec<CredentialInfo>,
    headers: Vec<Option<(HeaderName, HeaderValue)>>,
    /// Microseconds since the epoch; 0: serves.
    resting: Vec<AtomicI64>,
    clock: Arc<dyn Clock>,
}

impl Credentials {
    pub(crate) fn new(settings: &ProviderSettings, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        if settings.credentials.is_empty() {
            return Err(BuildError::new("credentials", "is empty"));
        }
        let header = |secret: &str| -> Result<_, BuildError> {
            let (name, text) = match &settings.auth {
                AuthStyle::Bearer => (AUTHORIZATION, format!("Bearer {secret}")),
                AuthStyle::Header(name) => {
                    let name = HeaderName::try_from(&**name);
                    (name.map_err(|_| BuildError::new("auth", "is not a header name"))?, secret.to_owned())
                }
                AuthStyle::None => return Ok(None),
            };
            let mut value = HeaderValue::try_from(text)
                .map_err(|_| BuildError::new("credentials", "holds a secret that no header can carry"))?;
            value.set_sensitive(true);
            Ok(Some((name, value)))
        };
        let credentials = &settings.credentials;
        let headers = credentials.iter().map(|credential| match &credential.secret {
            Some(secret) => header(secret.expose()),
            None => Ok(None),
        });
        Ok(Self {
            headers: headers.collect::<Result<_, _>>()?,
            infos: credentials.iter().map(|c| CredentialInfo { id: c.id.clone(), limits: c.limits.clone() }).collect(),
            resting: credentials.iter().map(|_| AtomicI64::new(0)).collect(),
            clock,
        })
    }

    pub(crate) fn infos(&self) -> &[CredentialInfo] {
        &self.infos
    }

    pub(crate) fn headers(&self) -> &[Option<(HeaderName, HeaderValue)>] {
        &self.headers
    }

    pub(crate) fn header(&self, credential: usize) -> Option<(HeaderName, HeaderValue)> {
        self.headers.get(credential).cloned().flatten()
    }

    pub(crate) fn resting_until(&self, credential: usize) -> Option<Timestamp> {
        let until = Timestamp(self.resting.get(credential)?.load(Ordering::Relaxed));
        (until.0 != 0 && until > self.clock.now()).then_some(until)
    }

    pub(crate) fn succeeded(&self, credential: usize) {
        // Read first: a store would take the cache line from the other cores with every request.
        if let Some(resting) = self.resting.get(credential).filter(|resting| resting.load(Ordering::Relaxed) != 0) {
            resting.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self, credential: usize, error: &ProviderError) {
        let rest = match error.kind {
            ProviderErrorKind::Credential => AFTER_REFUSAL,
            ProviderErrorKind::Quota => AFTER_EXHAUSTION,
            ProviderErrorKind::RateLimit => error.retry_after.unwrap_or(AFTER_RATE_LIMIT).min(LONGEST),
            ProviderErrorKind::Transport | ProviderErrorKind::Timeout if !error.request_was_sent => {
                AFTER_FAILED_CONNECT
            }
            _ => return,
        };
        if let Some(resting) = self.resting.get(credential) {
            resting.store(self.clock.now().saturating_add(rest).0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use ai4free_ports::{
        limits::Limits,
        provider_settings::{Credential, EndpointStyle, Quirks, Secret, Timeouts},
    };

    use super::*;

    struct ManualClock(AtomicI64);

    impl Clock for ManualClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_seconds(self.0.load(Ordering::Relaxed))
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn settings(auth: AuthStyle, secrets: &[&str]) -> ProviderSettings {
        let credential = |secret: &&str| Credential {
            id: "test#1".into(),
            secret: Some(Secret::new((*secret).to_owned())),
            limits: Limits::NONE,
        };
        ProviderSettings {
            id: "test".into(),
            dialect: "openai".into(),
            base_url: "http://localhost".into(),
            endpoint: EndpointStyle::Paths,
            auth,
            credentials: secrets.iter().map(credential).collect(),
            headers: vec![],
            quirks: Quirks::default(),
            images: None,
            timeouts: Timeouts::default(),
        }
    }

    #[test]
    fn each_error_rests_its_own_time_and_a_success_ends_it() {
        let clock = Arc::new(ManualClock(AtomicI64::new(1000)));
        let credentials = Credentials::new(&settings(AuthStyle::Bearer, &["a", "b"]), clock.clone()).unwrap();
        let unsent = |kind| ProviderError { request_was_sent: false, ..ProviderError::new(kind) };
        let asked = |seconds| ProviderError {
            retry_after: Some(Duration::from_secs(seconds)),
            ..ProviderError::new(ProviderErrorKind::RateLimit)
        };
        for (error, seconds) in [
            (ProviderError::new(ProviderErrorKind::Credential), 60),
            (ProviderError::new(ProviderErrorKind::Quota), 600),
            (ProviderError::new(ProviderErrorKind::RateLimit), 5),
            (asked(17), 17),
            (asked(1_000_000), 3600),
            (unsent(ProviderErrorKind::Transport), 5),
            (unsent(ProviderErrorKind::Timeout), 5),
        ] {
            let now = clock.0.load(Ordering::Relaxed);
            credentials.failed(1, &error);
            assert_eq!(credentials.resting_until(1), Some(Timestamp::from_seconds(now + seconds)), "{error}");
            assert_eq!(credentials.resting_until(0), None, "the other credential serves");
            clock.0.fetch_add(seconds, Ordering::Relaxed);
            assert_eq!(credentials.resting_until(1), None, "the rest is over");
        }
        credentials.failed(1, &ProviderError::new(ProviderErrorKind::Quota));
        credentials.succeeded(1);
        assert_eq!(credentials.resting_until(1), None);
        credentials.failed(1, &ProviderError::new(ProviderErrorKind::Request));
        credentials.failed(1, &ProviderError::new(ProviderErrorKind::Server));
        assert_eq!(credentials.resting_until(1), None, "not the credential's fault");
    }

    #[test]
    fn a_secret_becomes_a_header_that_does_not_print() {
        let clock = || Arc::new(ManualClock(AtomicI64::new(0)));
        let bearer = Credentials::new(&settings(AuthStyle::Bearer, &["hunter2"]), clock()).unwrap();
        let (name, value) = bearer.header(0).unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer hunter2"));
        assert!(!format!("{value:?}").contains("hunter2"));
        let azure = Credentials::new(&settings(AuthStyle::Header("api-key".into()), &["hunter2"]), clock()).unwrap();
        assert_eq!(azure.header(0).unwrap().0.as_str(), "api-key");
        assert!(Credentials::new(&settings(AuthStyle::None, &["x"]), clock()).unwrap().header(0).is_none());
        let error = Credentials::new(&settings(AuthStyle::Bearer, &["hunter2\n"]), clock()).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(Credentials::new(&settings(AuthStyle::Bearer, &[]), clock()).is_err());
    }
}
