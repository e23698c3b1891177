//! Which upstream serves a request, in which order. Pure: it reads what is known and does no I/O.

use ai4free_ports::{
    catalogue::{Model, Target},
    llm_provider::CredentialInfo,
    runtime::Timestamp,
};

use crate::application::attempt::Upstreams;

/// One credential of one provider that can serve a model.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub target: &'a Target,
    /// Index among the provider's credentials.
    pub credential: usize,
    pub info: &'a CredentialInfo,
}

/// Every credential of every target, in the order of the catalogue; those that rest come last, the soonest back first. So a
/// credential that was refused is spared while others serve, and tried again rather than failing when none is left.
#[must_use]
pub fn candidates<'a>(model: &'a Model, upstreams: &'a Upstreams, now: Timestamp) -> Vec<Candidate<'a>> {
    let mut serving = Vec::new();
    let mut resting = Vec::new();
    for target in model.targets.iter() {
        for (credential, info, resting_until) in upstreams.credentials(&target.provider) {
            let candidate = Candidate { target, credential, info };
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use ai4free_ports::{
        catalogue::{ModelKind, OnDisconnect},
        error::{ProviderError, ProviderErrorKind},
        limits::Limits,
        llm_provider::{Call, Deadlines, LlmProvider, Reply},
        usage::Encoding,
    };
    use async_trait::async_trait;

    use super::*;
    use crate::application::attempt::Upstream;

    /// Each credential with the second until when it rests.
    struct Resting(Vec<CredentialInfo>, Vec<i64>);

    #[async_trait]
    impl LlmProvider for Resting {
        fn credentials(&self) -> &[CredentialInfo] {
            &self.0
        }

        fn resting_until(&self, credential: usize) -> Option<Timestamp> {
            self.1.get(credential).copied().map(Timestamp::from_seconds)
        }

        async fn call(&self, _call: Call) -> Result<Reply, ProviderError> {
            Err(ProviderError::new(ProviderErrorKind::Transport))
        }
    }

    fn upstream(until: &[(&str, i64)]) -> Upstream {
        let credentials = until.iter().map(|(id, _)| CredentialInfo { id: (*id).into(), limits: Limits::NONE });
        let provider = Arc::new(Resting(credentials.collect(), until.iter().map(|(_, until)| *until).collect()));
        let deadline = Duration::from_secs(1);
        let deadlines = Deadlines { first_byte: deadline, idle: deadline, total: deadline };
        Upstream { provider: provider.clone(), probe: provider, deadlines }
    }

    #[test]
    fn what_rests_comes_last_the_soonest_back_first_and_what_is_switched_off_not_at_all() {
        let target = |provider: &str| Target { provider: provider.into(), upstream_model: "m".into() };
        let model = Model {
            id: "m".into(),
            label: "m".into(),
            kind: ModelKind::Chat,
            targets: Arc::new([target("b"), target("off"), target("a")]),
            price: None,
            max_input_tokens: None,
            max_output_tokens: None,
            limits: Limits::NONE,
            encoding: Encoding::BytesPerFour,
            on_disconnect: OnDisconnect::Cancel,
            hides_reasoning: true,
            description: None,
            owned_by: "b".into(),
            created: 0,
            available: true,
        };
        let upstreams = Upstreams::new([
            ("a".into(), upstream(&[("a#1", 12), ("a#2", 0), ("a#3", 11)])),
            ("b".into(), upstream(&[("b#1", 13), ("b#2", 10)])),
        ]);
        let order = candidates(&model, &upstreams, Timestamp::from_seconds(10));
        let told: Vec<_> = order.iter().map(|one| (&*one.target.provider, one.credential, &*one.info.id)).collect();
        assert_eq!(told, [("b", 1, "b#2"), ("a", 1, "a#2"), ("a", 2, "a#3"), ("a", 0, "a#1"), ("b", 0, "b#1")]);
    }
}
