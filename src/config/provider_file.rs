//! The form of `data/providers.json`.

use std::collections::BTreeMap;

use ai4free_ports::{
    catalogue::OnDisconnect,
    provider_settings::{AuthStyle, OutputCapField, Quirks},
};
use serde::Deserialize;

use super::{
    data_file::{self, DataFile},
    section::Reading,
};

/// One upstream, before the environment is read. What is odd about it is a member, never a branch on its id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderEntry {
    pub(super) id: String,
    #[serde(default = "open_ai")]
    pub(super) dialect: String,
    /// Its usual address. Absent: it has none, so that only a configured one enables it.
    pub(super) base_url: Option<String>,
    /// Variables that name another address, in the order in which they are looked at.
    #[serde(default)]
    pub(super) base_url_env: Vec<String>,
    #[serde(default)]
    pub(super) base_url_form: BaseUrlForm,
    /// Added to an address of the environment that does not end with it.
    pub(super) base_path: Option<String>,
    #[serde(default)]
    pub(super) endpoint: EndpointEntry,
    #[serde(default)]
    pub(super) auth: AuthEntry,
    /// Variables that hold credentials: one, a comma list or a JSON array. The first that is set counts.
    #[serde(default)]
    pub(super) credentials_env: Vec<String>,
    /// It answers without a credential too.
    #[serde(default)]
    pub(super) credentials_optional: bool,
    /// Variables that list the statuses on which the next credential is tried; `["*"]` is every failure.
    #[serde(default)]
    pub(super) rotate_on_env: Vec<String>,
    /// Sent with every request.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) quirks: QuirksEntry,
    /// Absent: it makes no images.
    pub(super) images: Option<ImagesEntry>,
    /// `openai/*`: the pattern of model names that it serves.
    pub(super) serves: Option<String>,
    /// Of calls to models under the pattern.
    #[serde(default)]
    pub(super) on_disconnect: OnDisconnect,
    /// Owner of the models under the pattern; absent: the id.
    pub(super) owned_by: Option<String>,
    #[serde(default)]
    pub(super) timeouts: TimeoutsEntry,
    /// It is no upstream but part of the gateway.
    pub(super) built_in: Option<BuiltIn>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BaseUrlForm {
    #[default]
    Url,
    /// `HOST`, `HOST:PORT`, `:PORT` or a URL, as Ollama's own clients read it.
    OllamaHost,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EndpointEntry {
    #[default]
    Paths,
    FullUrl,
    AzureDeployment {
        api_version: String,
        api_version_env: Vec<String>,
    },
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuthEntry {
    #[default]
    Bearer,
    Header(String),
    None,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct QuirksEntry {
    stream_only: bool,
    whole_audio: bool,
    raw_reply: bool,
    output_cap_field: Option<CapFieldEntry>,
    content_type: Option<String>,
    no_stream_options: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CapFieldEntry {
    MaxTokens,
    MaxCompletionTokens,
}

#[derive(Clone, Deserialize)]
#[serde(tag = "style", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ImagesEntry {
    OpenAi,
    MarkdownInChat {
        image_hosts: Vec<String>,
    },
    GetUrl {
        /// Variables that name the address.
        url_env: Vec<String>,
    },
    /// At the base URL itself.
    JsonDataUrl,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TimeoutsEntry {
    pub(super) connect_seconds: Option<u64>,
    pub(super) first_byte_seconds: Option<u64>,
    pub(super) idle_seconds: Option<u64>,
    pub(super) total_seconds: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BuiltIn {
    Echo,
}

impl ProviderEntry {
    /// An upstream that only the configuration names.
    pub(super) fn named(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            dialect: open_ai(),
            base_url: None,
            base_url_env: Vec::new(),
            base_url_form: BaseUrlForm::default(),
            base_path: None,
            endpoint: EndpointEntry::default(),
            auth: AuthEntry::default(),
            credentials_env: Vec::new(),
            credentials_optional: true,
            rotate_on_env: Vec::new(),
            headers: BTreeMap::new(),
            quirks: QuirksEntry::default(),
            images: None,
            serves: None,
            on_disconnect: OnDisconnect::Cancel,
            owned_by: None,
            timeouts: TimeoutsEntry::default(),
            built_in: None,
        }
    }
}

impl From<&AuthEntry> for AuthStyle {
    fn from(auth: &AuthEntry) -> Self {
        match auth {
            AuthEntry::Bearer => Self::Bearer,
            AuthEntry::Header(name) => Self::Header(name.as_str().into()),
            AuthEntry::None => Self::None,
        }
    }
}

impl From<&QuirksEntry> for Quirks {
    fn from(quirks: &QuirksEntry) -> Self {
        Self {
            stream_only: quirks.stream_only,
            whole_audio: quirks.whole_audio,
            raw_reply: quirks.raw_reply,
            output_cap_field: quirks.output_cap_field.map(|field| match field {
                CapFieldEntry::MaxTokens => OutputCapField::MaxTokens,
                CapFieldEntry::MaxCompletionTokens => OutputCapField::MaxCompletionTokens,
            }),
            content_type: quirks.content_type.as_deref().map(Into::into),
            no_stream_options: quirks.no_stream_options,
            ..Self::default()
        }
    }
}

pub(super) fn read(files: &[String], reading: &Reading<'_>) -> DataFile<1> {
    let embedded = ("data/providers.json", include_str!("../../data/providers.json"));
    data_file::read(embedded, files, (["providers"], &["version", "about"]), reading, |_, _| {})
}

fn open_ai() -> String {
    "openai".to_owned()
}
