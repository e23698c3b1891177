use poem_openapi::Object;

/// Every error of every operation.
#[derive(Object)]
pub(in crate::http) struct ErrorEnvelope {
    error: ErrorBody,
}

/// What went wrong.
#[derive(Object)]
pub(in crate::http) struct ErrorBody {
    /// For people.
    message: String,
    /// `invalid_request_error`, `server_error`, `requests`, `tokens` or `insufficient_quota`.
    #[oai(rename = "type")]
    kind: String,
    /// The member of the request that is wrong.
    param: Option<String>,
    /// For programs: `model_not_found`, `rate_limit_exceeded`, …
    code: Option<String>,
}
