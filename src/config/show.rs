//! The effective configuration as text, for `config show`.

use std::{collections::BTreeSet, fmt::Write};

use config::{Map, Value, ValueKind};

use super::{providers::Providers, section::join};

const REDACTED: &str = "[redacted]";

/// The merged configuration as TOML, and the providers that came out of it as comments. `secrets` are the paths of the
/// settings that hold one.
pub(super) fn effective(merged: &Map<String, Value>, secrets: &BTreeSet<String>, providers: &Providers) -> String {
    let table = table(merged, "", secrets);
    let mut text = toml::to_string(&table).unwrap_or_default();
    text.push_str("\n# Providers that are enabled:\n");
    if let Some(id) = &providers.echo {
        let _ = writeln!(text, "#   {id}, built in");
    }
    for provider in &providers.upstreams {
        let credentials: Vec<&str> = provider.credentials.iter().map(|credential| &*credential.id).collect();
        let host = provider.base_url.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
        let _ = writeln!(text, "#   {} at {}, with {}", provider.id, host.unwrap_or_default(), credentials.join(", "));
    }
    text
}

fn table(merged: &Map<String, Value>, path: &str, secrets: &BTreeSet<String>) -> toml::Table {
    merged.iter().map(|(key, value)| (key.clone(), shown(value, &join(path, key), secrets))).collect()
}

fn shown(value: &Value, path: &str, secrets: &BTreeSet<String>) -> toml::Value {
    let is_secret = secrets.contains(path);
    match &value.kind {
        ValueKind::Table(members) => table(members, path, secrets).into(),
        ValueKind::Array(items) => {
            let item = |(number, item)| {
                let path = if is_secret { path.to_owned() } else { format!("{path}[{number}]") };
                shown(item, &path, secrets)
            };
            items.iter().enumerate().map(item).collect::<Vec<_>>().into()
        }
        ValueKind::String(text) if is_secret && !text.is_empty() && !is_reference(text) => REDACTED.into(),
        ValueKind::Boolean(yes) => (*yes).into(),
        ValueKind::I64(number) if !is_secret => (*number).into(),
        _ if is_secret && !matches!(value.kind, ValueKind::String(_)) => REDACTED.into(),
        _ => value.clone().into_string().unwrap_or_default().into(),
    }
}

/// Where a secret is, is none.
fn is_reference(text: &str) -> bool {
    text.starts_with("env:") || text.starts_with("file:")
}
