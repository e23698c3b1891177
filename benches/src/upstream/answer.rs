//! What the provider says: as long, and with as many members, as OpenAI's own answers.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

const WORDS: [&str; 8] = [" the", " gateway", " answers", " with", " small", " pieces", " of", " text"];
const ID: &str = "chatcmpl-Bx00000000000000000000000000";

/// As much of a request as the answer depends on.
#[derive(Deserialize)]
pub(crate) struct Question<'a> {
    #[serde(borrow)]
    pub(crate) model: Cow<'a, str>,
    #[serde(default)]
    pub(crate) stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Question<'_> {
    /// Some 1.2 KB.
    pub(crate) fn completion(&self) -> Bytes {
        let text: String = WORDS.iter().cycle().take(100).copied().collect();
        format!(
            r#"{{"id":"{ID}","object":"chat.completion","created":1753000000,"model":"{}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":42,"completion_tokens":128,"total_tokens":170,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}},"service_tier":"default","system_fingerprint":"fp_34a54ae93c"}}"#,
            self.model
        )
        .into()
    }

    /// A role, the words, a finish, the usage if it is asked for, and `[DONE]`.
    pub(crate) fn events(&self, words: usize) -> Vec<Bytes> {
        let wants_usage = self.stream_options.as_ref().is_some_and(|options| options.include_usage);
        let no_usage = if wants_usage { r#","usage":null"# } else { "" };
        let event = |delta: &str, finish: &str| {
            self.event(&format!(
                r#"[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]{no_usage}"#
            ))
        };
        let kinds = WORDS.map(|word| event(&format!(r#"{{"content":"{word}"}}"#), "null"));
        let mut events = Vec::with_capacity(words + 4);
        events.push(event(r#"{"role":"assistant","content":"","refusal":null}"#, "null"));
        events.extend(kinds.iter().cycle().take(words).cloned());
        events.push(event("{}", r#""stop""#));
        if wants_usage {
            let total = words + 42;
            events.push(self.event(&format!(
                r#"[],"usage":{{"prompt_tokens":42,"completion_tokens":{words},"total_tokens":{total}}}"#
            )));
        }
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    /// `rest` begins with the value of `choices`.
    fn event(&self, rest: &str) -> Bytes {
        format!(
            "data: {{\"id\":\"{ID}\",\"object\":\"chat.completion.chunk\",\"created\":1753000000,\"model\":\"{}\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_34a54ae93c\",\"choices\":{rest}}}\n\n",
            self.model
        )
        .into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn answers_are_json_of_the_size_that_the_figures_are_told_for() {
        let question: Question<'_> = serde_json::from_str(
            r#"{"model":"bench","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
        )
        .unwrap();
        let completion = question.completion();
        assert!((1100..1300).contains(&completion.len()), "{}", completion.len());
        assert!(serde_json::from_slice::<Value>(&completion).is_ok());
        let events = question.events(64);
        assert_eq!(events.len(), 64 + 4);
        for event in &events[..events.len() - 1] {
            let json = event.strip_prefix(b"data: ").and_then(|event| event.strip_suffix(b"\n\n")).unwrap();
            assert!(serde_json::from_slice::<Value>(json).is_ok(), "{event:?}");
        }
    }
}
