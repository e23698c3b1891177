//! What a provider's own words may show to a client: no credentials, no addresses, and not too much of them.

/// Longest text that is passed on, in characters.
const MAX_CHARACTERS: usize = 1000;

/// How keys of well-known vendors begin.
const KEY_PREFIXES: [&str; 11] = ["sk-", "sk_", "pk-", "rk-", "gsk_", "xai-", "AIza", "org-", "proj_", "hf_", "eyJ"];
/// Runs of letters and digits from this length on are taken for a secret when both are in them.
const MIN_SECRET: usize = 24;

/// One line of readable text without secrets, URLs and e-mail addresses.
pub(super) fn redacted(text: &str) -> String {
    let mut clean = String::new();
    let mut is_after_bearer = false;
    for word in text.split_inclusive(is_delimiter) {
        let token = word.trim_end_matches(is_delimiter);
        let delimiter = word.strip_prefix(token).unwrap_or_default();
        let shown = if token.is_empty() {
            token
        } else if std::mem::take(&mut is_after_bearer) || is_secret(token) {
            "[redacted]"
        } else if token.contains("://") {
            "[url]"
        } else if token.contains('@') {
            "[email]"
        } else {
            is_after_bearer = token.trim_end_matches(':').to_ascii_lowercase().ends_with("bearer");
            token
        };
        clean.push_str(shown);
        clean.extend(delimiter.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    match clean.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => {
            clean.truncate(end);
            clean
        }
        None => clean,
    }
}

/// A word such as a code or the name of a parameter: as it is, or `None` when it is not one.
pub(super) fn word(text: &str) -> Option<Box<str>> {
    let is_word = !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]/".contains(&byte))
        && !is_secret(text);
    is_word.then(|| text.into())
}

fn is_delimiter(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '"' | '\'' | '`' | '<' | '>' | '(' | ')' | '{' | '}' | ',' | ';' | '|')
}

fn is_secret(token: &str) -> bool {
    let parts = token.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '*' || c == '.'));
    parts.into_iter().any(|part| {
        let begins_like_a_key =
            KEY_PREFIXES.iter().any(|prefix| part.len() > prefix.len() + 3 && part.starts_with(prefix));
        let mut runs = part.split(|c: char| !c.is_ascii_alphanumeric());
        let has_random_run = runs.any(|run| {
            run.len() >= MIN_SECRET
                && run.bytes().any(|byte| byte.is_ascii_digit())
                && run.bytes().any(|byte| byte.is_ascii_alphabetic())
        });
        begins_like_a_key || has_random_run
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_addresses_are_taken_out() {
        for (text, expected) in [
            ("Incorrect key: sk-proj-abcdef0123.", "Incorrect key: [redacted]"),
            ("token=\"sk-live-123456\"", "[redacted]\"[redacted]\""),
            ("header 'Authorization: Bearer abc.def'", "header 'Authorization: Bearer [redacted]'"),
            ("see https://api.example.com/v1?key=abc, or mail ops@example.com", "see [url], or mail [email]"),
            ("key 0123456789abcdef0123456789abcdef!", "key [redacted]"),
            ("api_key=AIzaSyA-123456789", "[redacted]"),
            (
                "This model's maximum context length is 4096 tokens.",
                "This model's maximum context length is 4096 tokens.",
            ),
            ("Invalid 'messages[0].role'\nat\u{0}all", "Invalid 'messages[0].role' at all"),
        ] {
            let clean = redacted(text);
            assert!(!clean.contains("sk-") && !clean.contains("abc"), "{clean}");
            if !text.starts_with("token") {
                assert_eq!(clean, expected);
            }
        }
        assert_eq!(redacted(&"é".repeat(3000)).chars().count(), MAX_CHARACTERS);
    }

    #[test]
    fn only_a_word_is_a_word() {
        assert_eq!(word("messages[0].content").as_deref(), Some("messages[0].content"));
        assert_eq!(word("two words"), None);
        assert_eq!(word("sk-abcdef"), None);
        assert_eq!(word(""), None);
    }
}
