//! `providers`: what is configured.

use std::collections::BTreeMap;

use ai4free_ports::{catalogue::Snapshot, provider_settings::ProviderSettings};
use serde_json::{Value, json};

use super::{exit::ExitStatus, output::Report, session::Session};
use crate::config::Settings;

#[derive(Debug, clap::Subcommand)]
pub(super) enum ProvidersVerb {
    /// List the providers, whether each can be used, and why not. Calls none of them
    Check,
}

pub(super) fn run(session: &Session, verb: &ProvidersVerb) -> anyhow::Result<ExitStatus> {
    let ProvidersVerb::Check = verb;
    report(&standings(&session.settings)).print(session.format)?;
    Ok(ExitStatus::Success)
}

#[derive(Debug, PartialEq, Eq)]
struct Standing {
    id: String,
    /// `None`: enabled.
    disabled: Option<String>,
    /// Never the whole URL, which may hold a credential.
    host: String,
    credentials: usize,
    models: usize,
    patterns: Vec<String>,
}

fn standings(settings: &Settings) -> Vec<Standing> {
    let models = models_by_provider(&settings.catalogue);
    let served = |id: &str| models.get(id).copied().unwrap_or_default();
    let patterns = |id: &str| -> Vec<String> {
        let own = settings.catalogue.patterns.iter().filter(|pattern| &*pattern.provider == id);
        own.map(|pattern| pattern.label.to_string()).collect()
    };
    let standing = |id: &str, disabled: Option<&String>, upstream: Option<&ProviderSettings>| Standing {
        id: id.to_owned(),
        disabled: disabled.cloned(),
        host: upstream.map(host).unwrap_or_default(),
        credentials: upstream.map_or(0, |upstream| upstream.credentials.len()),
        models: served(id),
        patterns: patterns(id),
    };
    let providers = &settings.providers;
    let built_in = providers.echo.iter().map(|id| Standing { host: "built in".to_owned(), ..standing(id, None, None) });
    let upstreams = providers.upstreams.iter().map(|upstream| standing(&upstream.id, None, Some(upstream)));
    let disabled = providers.disabled.iter().map(|(id, reason)| standing(id, Some(reason), None));
    built_in.chain(upstreams).chain(disabled).collect()
}

fn models_by_provider(catalogue: &Snapshot) -> BTreeMap<&str, usize> {
    let mut models = BTreeMap::new();
    for target in catalogue.models.iter().flat_map(|model| model.targets.iter()) {
        *models.entry(&*target.provider).or_default() += 1;
    }
    models
}

fn host(provider: &ProviderSettings) -> String {
    let url: Option<http::Uri> = provider.base_url.parse().ok();
    url.and_then(|url| url.host().map(str::to_owned)).unwrap_or_default()
}

fn report(standings: &[Standing]) -> Report {
    let row = |standing: &Standing| {
        vec![
            standing.id.clone(),
            standing.disabled.as_ref().map_or_else(|| "enabled".to_owned(), |reason| format!("disabled: {reason}")),
            standing.host.clone(),
            standing.credentials.to_string(),
            standing.models.to_string(),
            standing.patterns.join(", "),
        ]
    };
    let object = |standing: &Standing| {
        json!({
            "id": standing.id,
            "enabled": standing.disabled.is_none(),
            "reason": standing.disabled,
            "host": standing.host,
            "credentials": standing.credentials,
            "models": standing.models,
            "patterns": standing.patterns,
        })
    };
    let data: Vec<Value> = standings.iter().map(object).collect();
    Report {
        headers: vec!["provider", "state", "host", "credentials", "models", "patterns"],
        rows: standings.iter().map(row).collect(),
        json: json!({ "object": "list", "data": data }),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{Sources, load},
        wiring,
    };

    use super::*;

    #[test]
    fn each_provider_has_a_row_without_its_secret() {
        let variables = [("OPENAI_API_KEY", "sk-canary"), ("OPENAI_BASE_URL", "http://127.0.0.1:1/canary/v1")];
        let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let settings = load(&Sources { environment, ..Sources::default() }, &*wiring::calendar()).unwrap();
        let standings = standings(&settings);
        let find = |id: &str| standings.iter().find(|standing| standing.id == id).unwrap();
        let openai = find("openai");
        assert_eq!((openai.host.as_str(), openai.credentials, &openai.disabled), ("127.0.0.1", 1, &None));
        assert_eq!(openai.patterns, ["openai/*"]);
        for (id, reason) in [
            ("groq", "no credentials"),
            ("ollama", "no base URL"),
            ("Provider-1", "no base URL"),
            ("Provider-2", "no base URL and no credentials"),
        ] {
            assert_eq!(find(id).disabled.as_deref(), Some(reason), "{id}");
        }
        assert_eq!(find("local").host, "built in");
        let report = report(&standings);
        assert!(!format!("{:?}{}", report.rows, report.json).contains("canary"));
    }
}
