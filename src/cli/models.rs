//! `models`: what is served.

use ai4free_ports::catalogue::{Model, Price};
use serde_json::{Value, json};

use super::{exit::ExitStatus, output::Report, session::Session};

#[derive(Debug, clap::Subcommand)]
pub(super) enum ModelsVerb {
    /// List the models of the catalogue and the patterns of the providers
    List,
}

/// Needs no database: the catalogue is configuration.
pub(super) fn run(session: &Session, verb: &ModelsVerb) -> anyhow::Result<ExitStatus> {
    let ModelsVerb::List = verb;
    let snapshot = &session.settings.catalogue;
    let mut rows: Vec<Vec<String>> = snapshot.models.iter().map(|model| row(model)).collect();
    let mut data: Vec<Value> = snapshot.models.iter().map(|model| object(model)).collect();
    for pattern in &snapshot.patterns {
        rows.push(vec![pattern.label.to_string(), "pattern".into(), pattern.provider.to_string(), "yes".into()]);
        data.push(json!({ "id": &*pattern.label, "object": "model_pattern", "providers": [&*pattern.provider] }));
    }
    for row in &mut rows {
        row.resize(HEADERS.len(), String::new());
    }
    Report { headers: HEADERS.to_vec(), rows, json: json!({ "object": "list", "data": data }) }
        .print(session.format)?;
    Ok(ExitStatus::Success)
}

const HEADERS: [&str; 6] = ["model", "kind", "providers", "available", "input $/M", "output $/M"];

fn row(model: &Model) -> Vec<String> {
    let price = |of: fn(&Price) -> i64| model.price.as_ref().map(|price| micro_usd(of(price))).unwrap_or_default();
    vec![
        model.id.to_string(),
        model.kind.as_str().to_owned(),
        providers(model).join(", "),
        if model.available { "yes".to_owned() } else { "no".to_owned() },
        price(|price| price.input),
        price(|price| price.output),
    ]
}

fn object(model: &Model) -> Value {
    json!({
        "id": &*model.id,
        "object": "model",
        "kind": model.kind.as_str(),
        "providers": providers(model),
        "available": model.available,
        "max_input_tokens": model.max_input_tokens,
        "max_output_tokens": model.max_output_tokens,
        "price": model.price.as_ref().map(|price| json!({
            "input_per_million_tokens": micro_usd(price.input),
            "output_per_million_tokens": micro_usd(price.output),
            "per_image": price.per_image.to_string(),
            "per_request": price.per_request.to_string(),
            "currency": "USD",
        })),
    })
}

fn providers(model: &Model) -> Vec<&str> {
    model.targets.iter().map(|target| &*target.provider).collect()
}

/// An exact decimal, in US dollars.
fn micro_usd(micro: i64) -> String {
    ai4free_ports::money::PicoUsdSum::from_limbs(micro, 0).to_string()
}
