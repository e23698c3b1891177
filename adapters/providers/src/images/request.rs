//! What an image request asks, for the styles in which it is not simply forwarded.

use ai4free_ports::error::RequestError;
use serde::Deserialize;

/// As OpenAI's own bound on `n`; each image is a call upstream.
const MAX_IMAGES: u32 = 10;
const MAX_SIDE: u32 = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImageRequest {
    pub(super) prompt: String,
    pub(super) count: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) wants_bytes: bool,
}

impl ImageRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, RequestError> {
        #[derive(Deserialize)]
        struct Body {
            prompt: String,
            n: Option<u32>,
            size: Option<String>,
            response_format: Option<String>,
        }
        let body: Body = serde_json::from_slice(body).map_err(|_| {
            RequestError::new("prompt must be a string, n a whole number, size and response_format strings.")
        })?;
        let count = body.n.unwrap_or(1);
        if !(1..=MAX_IMAGES).contains(&count) {
            return Err(RequestError::new("n must be between 1 and 10.").param("n"));
        }
        let (width, height) = match body.size.as_deref() {
            None | Some("auto") => (1024, 1024),
            Some(size) => {
                sides(size).ok_or_else(|| RequestError::new("size must be of the form 1024x1024.").param("size"))?
            }
        };
        let wants_bytes = match body.response_format.as_deref() {
            None | Some("url") => false,
            Some("b64_json") => true,
            Some(_) => {
                return Err(RequestError::new("response_format must be url or b64_json.").param("response_format"));
            }
        };
        Ok(Self { prompt: body.prompt, count, width, height, wants_bytes })
    }
}

fn sides(size: &str) -> Option<(u32, u32)> {
    let (width, height) = size.split_once('x')?;
    let side = |text: &str| text.parse().ok().filter(|side| (1..=MAX_SIDE).contains(side));
    Some((side(width)?, side(height)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_openai_s() {
        let request = ImageRequest::parse(br#"{"prompt":"a cat","model":"m","quality":"hd"}"#).unwrap();
        let expected = ImageRequest { prompt: "a cat".into(), count: 1, width: 1024, height: 1024, wants_bytes: false };
        assert_eq!(request, expected);
    }

    #[test]
    fn what_can_not_be_made_is_refused_by_name() {
        for (body, param) in [
            (r#"{"prompt":"","n":0}"#, Some("n")),
            (r#"{"prompt":"","n":11}"#, Some("n")),
            (r#"{"prompt":"","size":"big"}"#, Some("size")),
            (r#"{"prompt":"","size":"1x100000"}"#, Some("size")),
            (r#"{"prompt":"","response_format":"png"}"#, Some("response_format")),
            (r#"{"n":1}"#, None),
            (r#"{"prompt":7}"#, None),
        ] {
            assert_eq!(ImageRequest::parse(body.as_bytes()).unwrap_err().param.as_deref(), param, "{body}");
        }
    }
}
