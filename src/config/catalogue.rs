//! `[catalogue]` and `data/models.json`, resolved against the providers that are enabled.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::Entry},
    sync::Arc,
};

use ai4free_ports::{
    catalogue::{Model, ModelKind, Snapshot, Target},
    limits::Limits,
};
use serde_json::Value;

use super::{
    errors::suggestion,
    model_file::{self, ModelEntry, VendorModelEntry},
    providers::Providers,
    section::{Reading, Section, join},
};

/// Files merged over the embedded ones.
#[derive(Clone, Debug)]
pub(super) struct CatalogueFiles {
    pub(super) models: Vec<String>,
    pub(super) providers: Vec<String>,
}

pub(super) fn read_files(section: Section<'_>) -> CatalogueFiles {
    let files = CatalogueFiles { models: section.list("models"), providers: section.list("providers") };
    section.finish();
    files
}

/// `limits` are those that the configuration sets on models; they win over the file's.
pub(super) fn snapshot(
    files: &[String],
    providers: &Providers,
    limits: &BTreeMap<String, Limits>,
    reading: &Reading<'_>,
) -> Snapshot {
    let file = model_file::read(files, reading);
    let [models, prices] = file.lists;
    let mut snapshot = Snapshot { patterns: providers.patterns.clone(), ..Snapshot::default() };
    for pattern in &mut snapshot.patterns {
        pattern.limits = limits.get(&*pattern.label).cloned().unwrap_or(Limits::NONE);
    }
    for entry in models {
        let origin = entry.origin.clone();
        let Some(entry) = entry.parse::<ModelEntry>(reading) else { continue };
        let problem = |message: String| reading.problem_at(&entry.id, Some(&origin), message);
        if entry.targets.is_empty() {
            problem("has no target".to_owned());
        }
        for target in entry.targets.iter().filter(|target| !providers.known.contains(&target.provider)) {
            let known = providers.known.iter().map(String::as_str);
            problem(format!("names an unknown provider `{}`{}", target.provider, suggestion(&target.provider, known)));
        }
        let own_limits = limits.get(&entry.id).unwrap_or(&Limits::NONE);
        let aliases = entry.aliases.clone();
        let model = Arc::new(model(entry, own_limits, providers));
        for name in std::iter::once(model.id.clone()).chain(aliases.into_iter().map(Into::into)) {
            match snapshot.by_name.entry(name) {
                Entry::Vacant(vacant) => drop(vacant.insert(model.clone())),
                Entry::Occupied(taken) => {
                    let message = format!("the name `{}` already means `{}`", taken.key(), taken.get().id);
                    reading.problem_at(&*model.id, Some(&origin), message);
                }
            }
        }
        snapshot.models.push(model);
    }
    for entry in prices.into_iter().filter_map(|entry| entry.parse::<VendorModelEntry>(reading)) {
        snapshot.vendor_models.insert(entry.id.as_str().into(), entry.into());
    }
    snapshot.default_image_model = default_image_model(file.header.get("default_image_model"), &snapshot, reading);
    check_limits(limits, &snapshot, providers, reading);
    snapshot
}

fn model(entry: ModelEntry, own_limits: &Limits, providers: &Providers) -> Model {
    let kind = ModelKind::from(entry.kind);
    let targets: Vec<Target> = entry.targets.into_iter().map(Target::from).collect();
    let first_provider = targets.first().map(|target| target.provider.clone());
    let usable: Vec<Target> = targets.iter().filter(|target| serves(providers, target, kind)).cloned().collect();
    let available = !usable.is_empty();
    Model {
        label: entry.id.as_str().into(),
        id: entry.id.into(),
        kind,
        // A model that nobody serves now keeps its targets: they say who could.
        targets: if available { usable.into() } else { targets.into() },
        price: entry.price.map(|price| Arc::new(price.into())),
        max_input_tokens: entry.max_input_tokens,
        max_output_tokens: entry.max_output_tokens,
        limits: own_limits.or(&entry.limits.limits()),
        encoding: entry.encoding,
        on_disconnect: entry.on_disconnect,
        hides_reasoning: entry.hides_reasoning,
        description: entry.description.map(Into::into),
        owned_by: entry.owned_by.map(Into::into).or(first_provider).unwrap_or_default(),
        created: entry.created,
        available,
    }
}

fn serves(providers: &Providers, target: &Target, kind: ModelKind) -> bool {
    let is_echo = providers.echo.as_ref() == Some(&target.provider);
    let upstream = providers.find(&target.provider);
    match kind {
        ModelKind::Image => upstream.is_some_and(|provider| provider.images.is_some()),
        ModelKind::Chat | ModelKind::Audio => is_echo || upstream.is_some(),
    }
}

fn default_image_model(named: Option<&Value>, snapshot: &Snapshot, reading: &Reading<'_>) -> Option<Arc<str>> {
    let named = named.filter(|named| !named.is_null())?;
    let model = named.as_str().and_then(|name| snapshot.by_name.get(name));
    match model.filter(|model| model.kind == ModelKind::Image) {
        Some(model) => Some(model.id.clone()),
        None => {
            reading.problem_at("default_image_model", Some("catalogue"), "is not an image model of the catalogue");
            None
        }
    }
}

/// A limit on a pattern whose provider is disabled is no mistake: it waits for the provider.
fn check_limits(limits: &BTreeMap<String, Limits>, snapshot: &Snapshot, providers: &Providers, reading: &Reading<'_>) {
    let models = snapshot.models.iter().map(|model| &*model.id);
    let known: BTreeSet<&str> = models.chain(providers.known_patterns.iter().map(String::as_str)).collect();
    for id in limits.keys().filter(|id| !known.contains(id.as_str())) {
        let message = format!("there is no such model in the catalogue{}", suggestion(id, known.iter().copied()));
        reading.problem_at(join("limits.models", id), None, message);
    }
}
