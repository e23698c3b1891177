//! Which upstream serves a request, in which order. Pure: it reads what is known and does no I/O.

use std::sync::Arc;

use ai4free_ports::{catalogue::Model, llm_provider::CredentialInfo, runtime::Timestamp};

use crate::application::attempt::Upstreams;

/// One credential of one provider that can serve a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub provider: Arc<str>,
    pub upstream_model: Arc<str>,
    /// Index among the provider's credentials.
    pub credential: usize,
    pub info: CredentialInfo,
}

/// Every credential of every target, in the order of the catalogue; those that rest come last, the soonest back first. So a
/// credential that was refused is spared while others serve, and tried again rather than failing when none is left.
#[must_use]
pub fn candidates(model: &Model, upstreams: &Upstreams, now: Timestamp) -> Vec<Candidate> {
    let mut serving = Vec::new();
    let mut resting = Vec::new();
    for target in model.targets.iter() {
        for (credential, info, resting_until) in upstreams.credentials(&target.provider) {
            let candidate = Candidate {
                provider: target.provider.clone(),
                upstream_model: target.upstream_model.clone(),
                credential,
                info: info.clone(),
            };
            match resting_until.filter(|until| *until > now) {
                None => serving.push(candidate),
                Some(until) => resting.push((until, candidate)),
            }
        }
    }
    resting.sort_by_key(|(until, _)| *until);
    serving.extend(resting.into_iter().map(|(_, candidate)| candidate));
    serving
}
