//! `x-ratelimit-*`, as OpenAI sends them: clients and their libraries read them raw.

use std::time::Duration;

use poem::http::{HeaderName, HeaderValue};

use crate::application::standing::{LimitHeaders, LimitStanding};

/// `limits`: the shared limiter is away, and each limit does what its policy says. `accounting`: the journal takes nothing, and
/// the request may have no row.
const DEGRADED: HeaderName = HeaderName::from_static("x-ai4free-degraded");

pub(super) fn headers(limits: &LimitHeaders) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    if let Some(requests) = &limits.requests {
        push(
            &mut headers,
            requests,
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        );
    }
    if let Some(tokens) = &limits.tokens {
        push(
            &mut headers,
            tokens,
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        );
    }
    if let Some(tightest) = limits.requests.as_ref().or(limits.tokens.as_ref()) {
        let scope = HeaderValue::from_static(tightest.scope.name());
        headers.push((HeaderName::from_static("x-ai4free-limit-scope"), scope));
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

fn push(headers: &mut Vec<(HeaderName, HeaderValue)>, limit: &LimitStanding, names: [&'static str; 3]) {
    let [limit_name, remaining_name, reset_name] = names.map(HeaderName::from_static);
    headers.push((limit_name, limit.limit.into()));
    headers.push((remaining_name, limit.standing.remaining.into()));
    if let Ok(reset) = HeaderValue::try_from(go_duration(limit.standing.reset)) {
        headers.push((reset_name, reset));
    }
}

/// As Go prints durations: `6ms`, `1.5s`, `1m30s`.
pub(super) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = match (rest / 1000, rest % 1000) {
        (whole, 0) => format!("{whole}s"),
        (whole, part) => format!("{whole}.{}s", format!("{part:03}").trim_end_matches('0')),
    };
    match (minutes, millis) {
        (0, 0) => "0s".to_owned(),
        (0, 1..1000) => format!("{millis}ms"),
        (0, _) => seconds,
        (minutes, _) if minutes >= 60 => format!("{}h{}m{seconds}", minutes / 60, minutes % 60),
        (minutes, _) => format!("{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_in_go() {
        let shown = |millis| go_duration(Duration::from_millis(millis));
        assert_eq!([shown(0), shown(6), shown(1000), shown(1500)], ["0s", "6ms", "1s", "1.5s"]);
        assert_eq!([shown(90_000), shown(60_050), shown(3_600_000)], ["1m30s", "1m0.05s", "1h0m0s"]);
    }
}
