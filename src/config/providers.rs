//! `[providers]`, `data/providers.json` and the environment, resolved to the upstreams that can be used.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ai4free_ports::{
    catalogue::{OnDisconnect, Pattern},
    limits::Limits,
    provider_settings::{
        AuthStyle, Credential, EndpointStyle, ImageStyle, ProviderSettings, Quirks, RotateOn, Secret, Timeouts,
    },
};

use super::{
    base_url,
    environment::Variable,
    errors::suggestion,
    layers::same_name,
    limits::read_limits,
    provider_file::{self, AuthEntry, BuiltIn, EndpointEntry, ImagesEntry, ProviderEntry, TimeoutsEntry},
    section::{Reading, Section, split_list},
    timeouts,
};

/// Protocols that an upstream may speak.
const DIALECTS: [&str; 1] = ["openai"];

/// The upstreams that are enabled.
#[derive(Clone, Default)]
pub struct Providers {
    pub upstreams: Vec<ProviderSettings>,
    /// Id of the provider that answers from this process; `None` when it is switched off.
    pub echo: Option<Arc<str>>,
    /// Id and reason of those that are not enabled.
    pub disabled: Vec<(Arc<str>, String)>,
    pub(super) patterns: Vec<Pattern>,
    /// Also those that are not enabled.
    pub(super) known: BTreeSet<String>,
    /// Also those of providers that are not enabled.
    pub(super) known_patterns: BTreeSet<String>,
}

impl Providers {
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&ProviderSettings> {
        self.upstreams.iter().find(|provider| &*provider.id == id)
    }
}

pub(super) fn read(root: &Section<'_>, files: &[String], default_timeouts: Timeouts) -> Providers {
    let reading = root.reading();
    let [entries] = provider_file::read(files, reading).lists;
    let mut entries: Vec<ProviderEntry> = entries.into_iter().filter_map(|entry| entry.parse(reading)).collect();
    let mut own = root.named("providers");
    for (name, _) in &mut own {
        match entries.iter().find(|entry| same_name(&entry.id, name)) {
            Some(entry) => name.clone_from(&entry.id),
            None => entries.push(ProviderEntry::named(name)),
        }
    }
    let mut providers = Providers::default();
    let mut unconfigured = Vec::new();
    for entry in &entries {
        let position = own.iter().position(|(name, _)| *name == entry.id);
        let section = position.map(|position| own.swap_remove(position).1);
        providers.known.insert(entry.id.clone());
        let draft = Draft::read(entry, section, reading, default_timeouts);
        providers.known_patterns.extend(draft.pattern().cloned());
        match draft.resolve(&mut providers) {
            Ok(()) | Err(Disabled::Silent) => {}
            Err(Disabled::Unconfigured { lacks }) => {
                unconfigured.push(&*entry.id);
                providers.disabled.push((entry.id.as_str().into(), format!("no {lacks}")));
            }
            Err(Disabled::Because(reason)) => {
                reading.note(format!("provider {} is disabled: {reason}", entry.id));
                providers.disabled.push((entry.id.as_str().into(), reason));
            }
        }
    }
    if !unconfigured.is_empty() {
        reading.note(format!("providers without base URL or credentials, disabled: {}", unconfigured.join(", ")));
    }
    check_credential_names(&providers, reading);
    providers
}

/// Why a provider is not used.
enum Disabled {
    /// A problem was reported.
    Silent,
    /// Nothing of it is set.
    Unconfigured {
        lacks: &'static str,
    },
    Because(String),
}

/// One entry of the file with what the configuration says of it.
struct Draft<'a> {
    entry: &'a ProviderEntry,
    reading: &'a Reading<'a>,
    is_new: bool,
    enabled: bool,
    base_url: Option<String>,
    dialect: Option<String>,
    serves: Option<String>,
    on_disconnect: OnDisconnect,
    auth: Option<AuthStyle>,
    image_hosts: Option<Vec<String>>,
    /// `None`: those of the environment.
    credentials: Option<Vec<Credential>>,
    timeouts: Timeouts,
}

impl<'a> Draft<'a> {
    fn read(
        entry: &'a ProviderEntry,
        section: Option<Section<'a>>,
        reading: &'a Reading<'a>,
        default_timeouts: Timeouts,
    ) -> Self {
        let mut draft = Self {
            entry,
            reading,
            is_new: section.is_some() && entry.base_url_env.is_empty() && entry.base_url.is_none(),
            enabled: true,
            base_url: None,
            dialect: None,
            serves: None,
            on_disconnect: entry.on_disconnect,
            auth: None,
            image_hosts: None,
            credentials: None,
            timeouts: over(default_timeouts, entry.timeouts),
        };
        let Some(section) = section else { return draft };
        draft.enabled = section.boolean("enabled", true);
        draft.base_url = section.optional_text("base_url");
        draft.dialect = section.optional_text("dialect");
        draft.serves = section.optional_text("serves");
        let choices = [("cancel", OnDisconnect::Cancel), ("drain", OnDisconnect::Drain)];
        draft.on_disconnect = section.choice("on_disconnect", &choices).unwrap_or(draft.on_disconnect);
        draft.auth = section.optional_text("auth").map(|auth| match &*auth {
            "bearer" => AuthStyle::Bearer,
            "none" => AuthStyle::None,
            header => AuthStyle::Header(header.into()),
        });
        let hosts = section.list("image_hosts");
        draft.image_hosts = (!hosts.is_empty()).then_some(hosts);
        let credentials = section.tables("credentials");
        draft.credentials = (!credentials.is_empty()).then(|| {
            credentials.into_iter().enumerate().map(|(number, table)| credential(&entry.id, number, table)).collect()
        });
        draft.timeouts = timeouts::over(&section, draft.timeouts);
        section.finish();
        draft
    }

    fn resolve(self, providers: &mut Providers) -> Result<(), Disabled> {
        let entry = self.entry;
        if !self.enabled {
            return Err(Disabled::Because("it is switched off".to_owned()));
        }
        if let Some(BuiltIn::Echo) = entry.built_in {
            providers.echo = Some(entry.id.as_str().into());
            return Ok(());
        }
        let base_url = self.base_url()?;
        let credentials = self.credentials()?;
        let (base_url, credentials) = match (base_url, credentials) {
            (Some(base_url), Some(credentials)) => (base_url, credentials),
            (None, _) if self.is_new => return self.wrong("a new provider needs a base_url"),
            (None, None) => return Err(Disabled::Unconfigured { lacks: "base URL and no credentials" }),
            (None, Some(_)) if entry.credentials_env.is_empty() || entry.credentials_optional => {
                return Err(Disabled::Unconfigured { lacks: "base URL" });
            }
            (Some(_), None) if entry.base_url.is_some() && self.base_url.is_none() => {
                return Err(Disabled::Unconfigured { lacks: "credentials" });
            }
            (None, Some(_)) => {
                return Err(Disabled::Because(format!("{} is not set", entry.base_url_env.join(" or "))));
            }
            (Some(_), None) => {
                return Err(Disabled::Because(format!("{} is not set", entry.credentials_env.join(" or "))));
            }
        };
        let may_have_query = matches!(entry.endpoint, EndpointEntry::FullUrl);
        if let Err(message) = base_url::check(&base_url, may_have_query) {
            return self.wrong(&format!("base URL {message}"));
        }
        let dialect = self.dialect.as_deref().unwrap_or(&entry.dialect);
        if !DIALECTS.contains(&dialect) {
            return self.wrong(&format!("there is no such dialect{}", suggestion(dialect, DIALECTS)));
        }
        let id: Arc<str> = entry.id.as_str().into();
        if let Some(serves) = self.pattern() {
            let Some(prefix) = serves.strip_suffix('*').filter(|prefix| prefix.len() > 1 && !prefix.contains('*'))
            else {
                return self.wrong("`serves` must be a prefix and a star, like `openai/*`");
            };
            if providers
                .patterns
                .iter()
                .any(|other| other.prefix.starts_with(prefix) || prefix.starts_with(&*other.prefix))
            {
                return self.wrong("`serves` overlaps with another provider's");
            }
            providers.patterns.push(Pattern {
                prefix: prefix.into(),
                label: serves.as_str().into(),
                provider: id.clone(),
                owned_by: entry.owned_by.as_deref().unwrap_or(&entry.id).into(),
                limits: Limits::NONE,
                on_disconnect: self.on_disconnect,
            });
        }
        providers.upstreams.push(ProviderSettings {
            dialect: dialect.into(),
            endpoint: self.endpoint(),
            auth: self.auth.clone().unwrap_or_else(|| AuthStyle::from(&entry.auth)),
            headers: entry.headers.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
            quirks: Quirks { rotate_on: self.rotate_on(), ..Quirks::from(&entry.quirks) },
            images: self.images(&base_url),
            base_url: base_url.into(),
            timeouts: self.timeouts,
            credentials,
            id,
        });
        Ok(())
    }

    fn pattern(&self) -> Option<&String> {
        self.serves.as_ref().or(self.entry.serves.as_ref())
    }

    fn base_url(&self) -> Result<Option<String>, Disabled> {
        if let Some(url) = &self.base_url {
            return Ok(Some(url.trim_end_matches('/').to_owned()));
        }
        Ok(match self.first(&self.entry.base_url_env) {
            Some(Variable { value, .. }) => {
                Some(base_url::from_environment(&value, self.entry.base_url_form, self.entry.base_path.as_deref()))
            }
            None => self.entry.base_url.clone(),
        })
    }

    /// `None`: it needs one and has none.
    fn credentials(&self) -> Result<Option<Vec<Credential>>, Disabled> {
        let entry = self.entry;
        if let Some(credentials) = &self.credentials {
            return Ok(Some(credentials.clone()));
        }
        let needs_none =
            self.auth.as_ref().map_or(matches!(entry.auth, AuthEntry::None), |auth| *auth == AuthStyle::None);
        let variable = self.first(&entry.credentials_env).filter(|_| !needs_none);
        let Some(Variable { value, origin }) = variable else {
            let without_secret = || vec![named_credential(&entry.id, 0, None)];
            return Ok((needs_none || entry.credentials_optional).then(without_secret));
        };
        let secrets =
            split_list(&value).ok_or_else(|| self.report("expected a key, a comma list or a JSON array", &origin))?;
        if secrets.is_empty() {
            return Ok(None);
        }
        let mut credentials = Vec::with_capacity(secrets.len());
        for (number, secret) in secrets.iter().enumerate() {
            let secret = self.reading.resolve(secret).map_err(|message| self.report(&message, &origin))?;
            credentials.push(named_credential(&entry.id, number, Some(secret)));
        }
        Ok(Some(credentials))
    }

    fn endpoint(&self) -> EndpointStyle {
        match &self.entry.endpoint {
            EndpointEntry::Paths => EndpointStyle::Paths,
            EndpointEntry::FullUrl => EndpointStyle::FullUrl,
            EndpointEntry::AzureDeployment { api_version, api_version_env } => {
                let version = self.first(api_version_env).map(|variable| variable.value);
                EndpointStyle::AzureDeployment { api_version: version.as_deref().unwrap_or(api_version).into() }
            }
        }
    }

    fn rotate_on(&self) -> RotateOn {
        let Some(Variable { value, origin }) = self.first(&self.entry.rotate_on_env) else { return RotateOn::Nothing };
        let items = split_list(&value).unwrap_or_else(|| vec![String::new()]);
        if items.iter().any(|item| item == "*") {
            return RotateOn::AnyFailure;
        }
        let status = |item: &String| item.parse().ok().filter(|status| (100..600).contains(status));
        match items.iter().map(status).collect() {
            Some(statuses) => RotateOn::Statuses(statuses),
            None => {
                self.report("expected a list of HTTP statuses, or [\"*\"]", &origin);
                RotateOn::Nothing
            }
        }
    }

    fn images(&self, base_url: &str) -> Option<ImageStyle> {
        Some(match self.entry.images.as_ref()? {
            ImagesEntry::OpenAi => ImageStyle::OpenAi,
            ImagesEntry::MarkdownInChat { image_hosts } => {
                let hosts = self.image_hosts.as_ref().unwrap_or(image_hosts);
                ImageStyle::MarkdownInChat { image_hosts: hosts.iter().map(|host| host.as_str().into()).collect() }
            }
            ImagesEntry::GetUrl { url_env } => {
                let Some(Variable { value, origin }) = self.first(url_env) else {
                    self.reading.note(format!(
                        "provider {} makes no images: {} is not set",
                        self.entry.id,
                        url_env.join(" or ")
                    ));
                    return None;
                };
                let url = value.trim_end_matches('/');
                if let Err(message) = base_url::check(url, false) {
                    self.report(message, &origin);
                }
                ImageStyle::GetUrl { url: url.into() }
            }
            ImagesEntry::JsonDataUrl => ImageStyle::JsonDataUrl { url: base_url.into() },
        })
    }

    fn first(&self, names: &[String]) -> Option<Variable> {
        let found = self.reading.environment.first(names.iter().map(String::as_str));
        self.reading.keep(found).flatten()
    }

    fn report(&self, message: &str, origin: &str) -> Disabled {
        self.reading.problem_at(super::section::join("providers", &self.entry.id), Some(origin), message);
        Disabled::Silent
    }

    fn wrong(&self, message: &str) -> Result<(), Disabled> {
        self.reading.problem_at(super::section::join("providers", &self.entry.id), None, message);
        Err(Disabled::Silent)
    }
}

fn credential(provider: &str, number: usize, section: Section<'_>) -> Credential {
    let secret = section.secret("secret");
    let name = section.optional_text("name");
    let limits = read_limits(section.section("limits"));
    section.finish();
    let credential = named_credential(provider, number, secret);
    Credential { id: name.map_or(credential.id, Into::into), limits, ..credential }
}

fn named_credential(provider: &str, number: usize, secret: Option<Secret>) -> Credential {
    Credential { id: format!("{provider}#{}", number + 1).into(), secret, limits: Limits::NONE }
}

fn over(lower: Timeouts, entry: TimeoutsEntry) -> Timeouts {
    let seconds = |own: Option<u64>, lower| own.map_or(lower, Duration::from_secs);
    Timeouts {
        connect: seconds(entry.connect_seconds, lower.connect),
        first_byte: seconds(entry.first_byte_seconds, lower.first_byte),
        idle: seconds(entry.idle_seconds, lower.idle),
        total: seconds(entry.total_seconds, lower.total),
    }
}

/// A name is a scope of limits and a label: two credentials with one name would share both.
fn check_credential_names(providers: &Providers, reading: &Reading<'_>) {
    let mut seen = BTreeSet::new();
    for credential in providers.upstreams.iter().flat_map(|provider| &provider.credentials) {
        if !seen.insert(&*credential.id) {
            reading.problem_at("providers", None, format!("two credentials are named `{}`", credential.id));
        }
    }
}
