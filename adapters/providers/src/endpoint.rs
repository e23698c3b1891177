//! Where requests to one upstream go and what heads them: made once from its settings, and everything wrong with the
//! settings is found here.

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind, PublicError},
    provider_settings::{EndpointStyle, ProviderSettings},
    request::Operation,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::{BuildError, addresses::AddressPolicy, transport};

/// What may stand in a path segment as it is: RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Headers that belong to the connection, or would change what an upstream sends back.
const NOT_CONFIGURABLE: [&str; 9] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
];

pub(crate) struct Endpoint {
    urls: Urls,
    /// Nothing of a client's own headers is ever among them.
    headers: HeaderMap,
    content_type: HeaderValue,
    host: HeaderValue,
}

/// The headers of a request with a body to the provider itself, without and with a stream as its answer.
pub(crate) struct Heads {
    whole: HeaderMap,
    stream: HeaderMap,
}

impl Heads {
    pub(crate) fn of(&self, is_stream: bool) -> &HeaderMap {
        if is_stream { &self.stream } else { &self.whole }
    }
}

enum Urls {
    Fixed { chat: Uri, images: Uri },
    Azure { deployments: String, query: String },
}

impl Endpoint {
    pub(crate) fn new(settings: &ProviderSettings) -> Result<Self, BuildError> {
        let base = configured_url(&settings.base_url, "base_url")?;
        if base.query().is_some() && settings.endpoint != EndpointStyle::FullUrl {
            return Err(BuildError::new("base_url", "must not have a query"));
        }
        let text = base.as_str().trim_end_matches('/');
        let urls = match &settings.endpoint {
            EndpointStyle::Paths => Urls::Fixed {
                chat: uri(&format!("{text}/chat/completions"), "base_url")?,
                images: uri(&format!("{text}/images/generations"), "base_url")?,
            },
            EndpointStyle::FullUrl => {
                let whole = uri(base.as_str(), "base_url")?;
                Urls::Fixed { chat: whole.clone(), images: whole }
            }
            EndpointStyle::AzureDeployment { api_version } => Urls::Azure {
                deployments: format!("{text}/openai/deployments"),
                query: format!("api-version={}", utf8_percent_encode(api_version, SEGMENT)),
            },
        };
        let content_type = settings.quirks.content_type.as_deref().unwrap_or("application/json");
        Ok(Self {
            urls,
            headers: configured_headers(settings)?,
            host: host(&base).ok_or_else(|| BuildError::new("base_url", "has no host"))?,
            content_type: HeaderValue::from_str(content_type)
                .map_err(|_| BuildError::new("quirks.content_type", "is not a header value"))?,
        })
    }

    /// The URL of an operation on the provider's model of this name.
    pub(crate) fn url(&self, operation: Operation, model: &str) -> Result<Uri, ProviderError> {
        match (&self.urls, operation) {
            (Urls::Fixed { chat, .. }, Operation::Chat) => Ok(chat.clone()),
            (Urls::Fixed { images, .. }, Operation::ImageGeneration) => Ok(images.clone()),
            (Urls::Azure { deployments, query }, _) => {
                let path = match operation {
                    Operation::Chat => "chat/completions",
                    Operation::ImageGeneration => "images/generations",
                };
                let deployment = path_segment(model).ok_or_else(|| no_such_model(model))?;
                format!("{deployments}/{deployment}/{path}?{query}").parse().map_err(|_| no_such_model(model))
            }
        }
    }

    /// The headers of a request with a body; the credential comes last, so that no configured header can replace it.
    pub(crate) fn headers(&self, is_stream: bool, credential: Option<(HeaderName, HeaderValue)>) -> HeaderMap {
        let mut headers = self.headers.clone();
        let accept = if is_stream { "text/event-stream" } else { "application/json" };
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        with_credential(headers, credential)
    }

    /// Made once for each credential: every request has them, and they are copied faster than they are made.
    pub(crate) fn heads(&self, credential: Option<&(HeaderName, HeaderValue)>) -> Heads {
        let head = |is_stream| {
            let mut head = self.headers(is_stream, credential.cloned());
            head.insert(HOST, self.host.clone());
            head
        };
        Heads { whole: head(false), stream: head(true) }
    }

    /// The headers of a request for an image's bytes.
    pub(crate) fn headers_without_body(&self, credential: Option<(HeaderName, HeaderValue)>) -> HeaderMap {
        with_credential(self.headers.clone(), credential)
    }
}

/// A URL that the operator wrote: http or https, to any host but a metadata service.
pub(crate) fn configured_url(text: &str, field: &'static str) -> Result<Url, BuildError> {
    let url = Url::parse(text).map_err(|_| BuildError::new(field, "is not a URL"))?;
    let reason = match url.host_str() {
        _ if !matches!(url.scheme(), "http" | "https") => "must begin with http:// or https://",
        None => "has no host",
        _ if !url.username().is_empty() || url.password().is_some() => "must not hold a user name or password",
        _ if url.fragment().is_some() => "must not have a fragment",
        Some(host) if !AddressPolicy::Configured.allows_literal(host) => "is a link-local metadata address",
        Some(_) => return Ok(url),
    };
    Err(BuildError::new(field, reason))
}

/// One segment of a path, whatever is in the text. `None` for those that a URL would resolve away.
pub(crate) fn path_segment(text: &str) -> Option<String> {
    (!matches!(text, "" | "." | "..")).then(|| utf8_percent_encode(text, SEGMENT).to_string())
}

fn host(url: &Url) -> Option<HeaderValue> {
    let host = url.host_str()?;
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    HeaderValue::try_from(host).ok()
}

fn uri(text: &str, field: &'static str) -> Result<Uri, BuildError> {
    text.parse().map_err(|_| BuildError::new(field, "is not a URL"))
}

fn configured_headers(settings: &ProviderSettings) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(transport::USER_AGENT));
    for (name, value) in &settings.headers {
        let name = HeaderName::try_from(&**name).map_err(|_| BuildError::new("headers", "holds an invalid name"))?;
        if NOT_CONFIGURABLE.contains(&name.as_str()) {
            return Err(BuildError::new("headers", "holds a header that belongs to the connection"));
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| BuildError::new("headers", "holds an invalid value"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Replaces a configured header of the same name.
fn with_credential(mut headers: HeaderMap, credential: Option<(HeaderName, HeaderValue)>) -> HeaderMap {
    if let Some((name, value)) = credential {
        headers.insert(name, value);
    }
    headers
}

fn no_such_model(model: &str) -> ProviderError {
    let public = PublicError {
        message: format!("The model {model:?} does not exist at its provider.").into(),
        param: Some("model".into()),
        code: Some("model_not_found".into()),
    };
    ProviderError { request_was_sent: false, public: Some(public), ..ProviderError::new(ProviderErrorKind::Request) }
}

#[cfg(test)]
mod tests {
    use ai4free_ports::provider_settings::{AuthStyle, Quirks, Timeouts};

    use super::*;

    fn settings(base_url: &str, endpoint: EndpointStyle) -> ProviderSettings {
        ProviderSettings {
            id: "test".into(),
            dialect: "openai".into(),
            base_url: base_url.into(),
            endpoint,
            auth: AuthStyle::Bearer,
            credentials: vec![],
            headers: vec![],
            quirks: Quirks::default(),
            images: None,
            timeouts: Timeouts::default(),
        }
    }

    fn chat_url(base_url: &str, endpoint: EndpointStyle, model: &str) -> String {
        Endpoint::new(&settings(base_url, endpoint)).unwrap().url(Operation::Chat, model).unwrap().to_string()
    }

    #[test]
    fn each_style_makes_its_urls() {
        for base in ["http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(chat_url(base, EndpointStyle::Paths, "m"), "http://h:1/v1/chat/completions");
        }
        assert_eq!(chat_url("https://h/x?a=b", EndpointStyle::FullUrl, "m"), "https://h/x?a=b");
        let azure = || EndpointStyle::AzureDeployment { api_version: "2024-10-21".into() };
        assert_eq!(
            chat_url("https://r.openai.azure.com", azure(), "gpt-4.1/../x?y"),
            "https://r.openai.azure.com/openai/deployments/gpt-4.1%2F..%2Fx%3Fy/chat/completions?api-version=2024-10-21"
        );
        let endpoint = Endpoint::new(&settings("https://r.openai.azure.com", azure())).unwrap();
        assert!(endpoint.url(Operation::Chat, "..").is_err());
    }

    #[test]
    fn a_request_names_its_host_as_the_url_does() {
        let host = |base_url| {
            let endpoint = Endpoint::new(&settings(base_url, EndpointStyle::Paths)).unwrap();
            endpoint.heads(None).of(true).get(HOST).unwrap().to_str().unwrap().to_owned()
        };
        for (base_url, written) in [
            ("http://h:1/v1", "h:1"),
            ("https://API.example.com/v1", "api.example.com"),
            ("https://h:443/", "h"),
            ("http://[::1]:8080/v1", "[::1]:8080"),
        ] {
            assert_eq!(host(base_url), written);
        }
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        for (base_url, reason) in [
            ("nonsense", "is not a URL"),
            ("ftp://h/", "http://"),
            ("https://user:hunter2@h/", "password"),
            ("https://h/#f", "fragment"),
            ("https://h/?q", "query"),
            ("http://169.254.169.254/latest", "metadata"),
            ("http://2852039166/", "metadata"),
            ("http://[::ffff:a9fe:a9fe]/", "metadata"),
        ] {
            let error = Endpoint::new(&settings(base_url, EndpointStyle::Paths)).err().unwrap().to_string();
            assert!(error.starts_with("base_url ") && error.contains(reason), "{base_url}: {error}");
            assert!(!error.contains("hunter2"));
        }
        let mut odd = settings("http://h", EndpointStyle::Paths);
        odd.headers = vec![("Host".into(), "other".into())];
        assert!(Endpoint::new(&odd).err().unwrap().to_string().starts_with("headers "));
    }
}
