//! `x-ratelimit-*`, as OpenAI sends them: clients and their libraries read them raw.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use poem::http::{HeaderName, HeaderValue};

use crate::application::standing::{LimitHeaders, LimitStanding};

const SCOPE: HeaderName = HeaderName::from_static("x-ai4free-limit-scope");
/// `limits`: the shared limiter is away, and each limit does what its policy says. `accounting`: the journal takes nothing, and
/// the request may have no row.
const DEGRADED: HeaderName = HeaderName::from_static("x-ai4free-degraded");
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
/// Of three values: two numbers and a duration.
const USUAL_LENGTH: usize = 48;

pub(super) fn headers(limits: &LimitHeaders) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(8);
    if let Some(requests) = &limits.requests {
        push(&mut headers, requests, REQUESTS);
    }
    if let Some(tokens) = &limits.tokens {
        push(&mut headers, tokens, TOKENS);
    }
    if let Some(tightest) = limits.requests.as_ref().or(limits.tokens.as_ref()) {
        headers.push((SCOPE, HeaderValue::from_static(tightest.scope.name())));
    }
    let degraded = match (limits.is_degraded, limits.is_unmetered) {
        (false, false) => return headers,
        (true, false) => "limits",
        (false, true) => "accounting",
        (true, true) => "limits, accounting",
    };
    headers.push((DEGRADED, HeaderValue::from_static(degraded)));
    headers
}

/// The values are slices of one text.
fn push(headers: &mut Vec<(HeaderName, HeaderValue)>, limit: &LimitStanding, names: [HeaderName; 3]) {
    let mut text = BytesMut::with_capacity(USUAL_LENGTH);
    let reset = GoDuration(limit.standing.reset);
    let values: [&dyn fmt::Display; 3] = [&limit.limit, &limit.standing.remaining, &reset];
    let ends = values.map(|value| {
        // Only a value that refuses to be displayed could fail.
        let _ = write!(text, "{value}");
        text.len()
    });
    let text = text.freeze();
    let mut start = 0;
    for (name, end) in names.into_iter().zip(ends) {
        if let Ok(value) = HeaderValue::from_maybe_shared::<Bytes>(text.slice(start..end)) {
            headers.push((name, value));
        }
        start = end;
    }
}

/// As Go prints durations: `6ms`, `1.5s`, `1m30s`.
pub(super) struct GoDuration(pub(super) Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (minutes, rest) = (millis / 60_000, millis % 60_000);
        match (minutes, millis) {
            (0, 0) => return f.write_str("0s"),
            (0, 1..1000) => return write!(f, "{millis}ms"),
            (0, _) => {}
            (1..60, _) => write!(f, "{minutes}m")?,
            _ => write!(f, "{}h{}m", minutes / 60, minutes % 60)?,
        }
        write!(f, "{}", rest / 1000)?;
        let (mut fraction, mut places) = (rest % 1000, 3);
        if fraction > 0 {
            while fraction % 10 == 0 {
                (fraction, places) = (fraction / 10, places - 1);
            }
            write!(f, ".{fraction:0places$}")?;
        }
        f.write_str("s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_in_go() {
        let shown = |millis| GoDuration(Duration::from_millis(millis)).to_string();
        assert_eq!([shown(0), shown(6), shown(1000), shown(1500)], ["0s", "6ms", "1s", "1.5s"]);
        assert_eq!([shown(90_000), shown(60_050), shown(3_600_000)], ["1m30s", "1m0.05s", "1h0m0s"]);
    }
}
