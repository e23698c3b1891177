//! Images from providers, each in its own way, always as OpenAI's `{created, data: [{url | b64_json}]}`.

mod image;
mod request;
mod style;

pub(crate) use style::Images;
