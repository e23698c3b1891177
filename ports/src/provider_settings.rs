//! How to reach one upstream: a row of `data/providers.json` after its environment variables have been read. Configuration
//! makes these values, the provider adapter is built from them; what is odd about an upstream is a flag here, not a branch
//! on its name.

use std::{sync::Arc, time::Duration};

use zeroize::Zeroizing;

use crate::limits::Limits;

/// A secret text. Wiped when dropped; no `Debug`, no `Display`, never serialised.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// For the one place that sends or hashes it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[derive(Clone)]
pub struct ProviderSettings {
    /// `openai`, `Provider-7`.
    pub id: Arc<str>,
    /// Name of a [`crate::dialect::Dialect`].
    pub dialect: Box<str>,
    /// Trusted as the operator wrote it; only link-local metadata addresses are refused.
    pub base_url: Box<str>,
    pub endpoint: EndpointStyle,
    pub auth: AuthStyle,
    /// In the order in which they are tried; at least one (it may be without a secret).
    pub credentials: Vec<Credential>,
    /// Sent with every request.
    pub headers: Vec<(Box<str>, Box<str>)>,
    pub quirks: Quirks,
    /// `None`: the provider makes no images.
    pub images: Option<ImageStyle>,
    pub timeouts: Timeouts,
}

/// How the URL of an operation is made from the base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointStyle {
    /// `{base}/chat/completions`, `{base}/images/generations`.
    Paths,
    /// The base URL is the endpoint itself.
    FullUrl,
    /// `{base}/openai/deployments/{model}/chat/completions?api-version={version}`.
    AzureDeployment { api_version: Box<str> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthStyle {
    /// `Authorization: Bearer SECRET`.
    Bearer,
    /// The secret alone in this header (`api-key` on Azure).
    Header(Box<str>),
    None,
}

#[derive(Clone)]
pub struct Credential {
    /// `openai#1` unless it was named. Shown in the ledger, in metrics and in logs.
    pub id: Arc<str>,
    pub secret: Option<Secret>,
    pub limits: Limits,
}

/// What is odd about an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// It only streams: whole replies are put together here.
    pub stream_only: bool,
    /// It can't stream an answer with audio in it: it is asked for the whole, which is then streamed from here.
    pub whole_audio: bool,
    /// A successful reply may be raw text or raw audio instead of JSON: it is wrapped into a completion.
    pub raw_reply: bool,
    /// The only name of the output cap that it knows: `max_tokens` or `max_completion_tokens`.
    pub output_cap_field: Option<OutputCapField>,
    /// Sent instead of `application/json`.
    pub content_type: Option<Box<str>>,
    /// Statuses on which the next credential is tried, besides 401, 403 and 429.
    pub rotate_on: RotateOn,
    /// It refuses `stream_options`: usage is counted here when it reports none by itself.
    pub no_stream_options: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputCapField {
    MaxTokens,
    MaxCompletionTokens,
}

impl OutputCapField {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RotateOn {
    #[default]
    Nothing,
    Statuses(Vec<u16>),
    /// Every status but those that are the client's own error (400, 404, 413, 422).
    AnyFailure,
}

/// How an upstream makes images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageStyle {
    /// OpenAI's `/images/generations`.
    OpenAi,
    /// A chat completion whose text is a markdown image.
    MarkdownInChat { image_hosts: Vec<Box<str>> },
    /// `GET {url}/{prompt}?width=…&height=…&model=…&seed=…`, answered with the image's bytes.
    GetUrl { url: Box<str> },
    /// `POST {url}` of a small JSON, answered `{"result":"data:image/…;base64,…"}`.
    JsonDataUrl { url: Box<str> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Until the first event of a stream.
    pub first_byte: Duration,
    /// Between two reads of a stream.
    pub idle: Duration,
    /// From start to end; the only one that a whole reply has.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
}
