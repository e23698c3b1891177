//! Who is asking: from the text of an API key to the key that is stored under its id.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    key::{ApiKey, KeyId, KeyState, StoredKey},
    key_store::KeyStore,
    limits::Limits,
    runtime::{Clock, KeyHasher},
};

use crate::application::failure::{AuthenticationProblem, Failure};

/// An authenticated caller. Made by [`Authentication`] only.
#[derive(Clone)]
pub struct Principal {
    key: Arc<StoredKey>,
}

impl Principal {
    #[must_use]
    pub fn key(&self) -> &StoredKey {
        &self.key
    }

    #[cfg(test)]
    pub(super) fn of_test(key: StoredKey) -> Self {
        Self { key: key.into() }
    }

    /// The gateway itself: what `/v1/uptime` costs is charged to it, under no limit but the gateway's and the model's.
    #[must_use]
    pub fn system(clock: &dyn Clock) -> Self {
        Self {
            key: Arc::new(StoredKey {
                id: KeyId::system(),
                name: "system".into(),
                user_id: Some("system".into()),
                plan: "".into(),
                limits: Limits::NONE,
                models: Vec::new(),
                max_output_tokens: None,
                expires_at: None,
                revoked_at: None,
                created_at: clock.now(),
                last_used_at: None,
                prefix: "".into(),
                last4: "".into(),
                secrets: Vec::new(),
                version: 0,
            }),
        }
    }
}

/// Uses of a key that follow each other closer than this are one use: not every request has to note its own.
const LAST_USE_PRECISION: Duration = Duration::from_secs(60);

pub struct Authentication {
    pub keys: Arc<dyn KeyStore>,
    pub hasher: Arc<dyn KeyHasher>,
    pub clock: Arc<dyn Clock>,
}

impl Authentication {
    /// Form and checksum first: a malformed key costs no look-up.
    ///
    /// # Errors
    /// [`Failure::Unauthenticated`] for a key that is not valid; [`Failure::Unavailable`] when the store can't tell.
    pub async fn authenticate(&self, token: Option<&str>) -> Result<Principal, Failure> {
        let token = token.ok_or(Failure::Unauthenticated(AuthenticationProblem::Missing))?;
        let presented = ApiKey::parse(token).ok_or(Failure::Unauthenticated(AuthenticationProblem::Malformed))?;
        let id = presented.id();
        let stored = match self.keys.remembered(&id) {
            Some(stored) => stored,
            None => self.look_up(&id).await?,
        };
        let now = self.clock.now();
        let known = stored
            .secrets
            .iter()
            .filter(|secret| secret.expires_at.is_none_or(|at| at > now))
            .any(|secret| self.hasher.matches(&presented, secret));
        if !known {
            return Err(Failure::Unauthenticated(AuthenticationProblem::Unknown));
        }
        match stored.state(now) {
            KeyState::Active => {}
            KeyState::Revoked => return Err(Failure::Unauthenticated(AuthenticationProblem::Revoked)),
            KeyState::Expired => return Err(Failure::Unauthenticated(AuthenticationProblem::Expired)),
        }
        if stored.last_used_at.is_none_or(|last| last.saturating_add(LAST_USE_PRECISION) <= now)
            && let Err(error) = self.keys.touch(&[(stored.id.clone(), now)]).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "the use of a key was not noted");
        }
        Ok(Principal { key: stored })
    }

    async fn look_up(&self, id: &KeyId) -> Result<Arc<StoredKey>, Failure> {
        let found = self.keys.find(id).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "key look-up failed");
            Failure::of_key_store(&error)
        })?;
        found.ok_or(Failure::Unauthenticated(AuthenticationProblem::Unknown))
    }
}
