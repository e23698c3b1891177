//! Names of span attributes, from OpenTelemetry's semantic conventions for generative AI
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/>).

pub const SPAN_NAME: &str = "otel.name";
pub const SPAN_KIND: &str = "otel.kind";
pub const ERROR_TYPE: &str = "error.type";
pub const OPERATION_NAME: &str = "gen_ai.operation.name";
pub const PROVIDER_NAME: &str = "gen_ai.provider.name";
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
pub const REQUEST_STREAM: &str = "gen_ai.request.stream";
pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
pub const CACHE_READ_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
pub const REASONING_TOKENS: &str = "gen_ai.usage.reasoning.output_tokens";

/// Not in the conventions: which of a provider's credentials was used, and which request it was for.
pub const CREDENTIAL: &str = "ai4free.credential";
pub const REQUEST_ID: &str = "ai4free.request.id";
