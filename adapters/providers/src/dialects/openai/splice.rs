//! The client's body with a few members changed, made of slices of it.

use std::ops::Range;

use ai4free_ports::request::{Edits, InboundRequest, Operation, Rope};
use bytes::Bytes;

use super::members::Members;

/// Written when the provider knows both names: the one that OpenAI's reasoning models accept.
pub(super) const DEFAULT_CAP_FIELD: &str = "max_completion_tokens";

pub(super) fn splice(request: &InboundRequest, edits: &Edits) -> Rope {
    let mut splice = Splice { body: &request.body, changes: Vec::new(), inserted: String::new() };
    splice.set_model(request, edits);
    if request.operation == Operation::Chat {
        splice.set_cap(request, edits);
        splice.ask_for_usage(request, edits);
    }
    splice.insert(request);
    splice.into_rope()
}

struct Splice<'a> {
    body: &'a Bytes,
    /// What each range of the body becomes. They do not overlap.
    changes: Vec<(Range<usize>, Bytes)>,
    /// New members, each with a comma behind it.
    inserted: String,
}

impl Splice<'_> {
    fn set_model(&mut self, request: &InboundRequest, edits: &Edits) {
        match &request.view.model_span {
            Some(_) if request.view.model == edits.model => {}
            Some(span) => self.changes.push((span.clone(), quoted(&edits.model).into())),
            None => self.add_member("model", &quoted(&edits.model)),
        }
    }

    fn set_cap(&mut self, request: &InboundRequest, edits: &Edits) {
        let view = &request.view;
        match &view.output_cap {
            Some(cap) => {
                let field = edits.output_cap_field.map(quoted).filter(|field| {
                    self.body.get(cap.name_span.clone()).is_none_or(|written| written != field.as_bytes())
                });
                let tokens = edits.output_cap.filter(|tokens| *tokens != cap.tokens);
                if field.is_none() && tokens.is_none() {
                    return;
                }
                self.changes.extend(field.map(|field| (cap.name_span.clone(), field.into())));
                self.changes.extend(tokens.map(|tokens| (cap.value_span.clone(), tokens.to_string().into())));
            }
            None => {
                let Some(tokens) = edits.output_cap else { return };
                self.add_member(edits.output_cap_field.unwrap_or(DEFAULT_CAP_FIELD), &tokens.to_string());
            }
        }
        // A `null` beside it could be of the same name.
        self.changes.extend(view.null_caps.iter().map(|span| (span.clone(), Bytes::new())));
    }

    fn ask_for_usage(&mut self, request: &InboundRequest, edits: &Edits) {
        let view = &request.view;
        if !edits.ask_for_usage || !view.stream || view.include_usage {
            return;
        }
        let Some(span) = &view.stream_options_span else {
            self.add_member("stream_options", r#"{"include_usage":true}"#);
            return;
        };
        let written = self.body.get(span.clone()).and_then(|options| std::str::from_utf8(options).ok());
        let options = written.and_then(|options| Members::read(options, &["include_usage"], "").ok());
        let (range, new) = match options {
            Some(options) => match options.get("include_usage").map(|value| options.span(value)) {
                Some(value) => (span.start + value.start..span.start + value.end, "true"),
                None if options.is_empty => (span.clone(), r#"{"include_usage":true}"#),
                None => (span.start + 1..span.start + 1, r#""include_usage":true,"#),
            },
            // `null`.
            None => (span.clone(), r#"{"include_usage":true}"#),
        };
        self.changes.push((range, Bytes::from_static(new.as_bytes())));
    }

    fn add_member(&mut self, name: &str, value: &str) {
        self.inserted.push_str(&quoted(name));
        self.inserted.push(':');
        self.inserted.push_str(value);
        self.inserted.push(',');
    }

    fn insert(&mut self, request: &InboundRequest) {
        if self.inserted.is_empty() {
            return;
        }
        if !request.view.has_members {
            self.inserted.pop();
        }
        let at = request.view.insert_at;
        let inserted = std::mem::take(&mut self.inserted);
        // Before a member that goes from the same place.
        self.changes.insert(0, (at..at, inserted.into()));
    }

    fn into_rope(mut self) -> Rope {
        self.changes.sort_by_key(|(range, _)| range.start);
        let mut pieces = Vec::with_capacity(self.changes.len() * 2 + 1);
        let mut at = 0;
        for (range, new) in self.changes {
            pieces.push(self.body.slice(at..range.start.max(at)));
            pieces.push(new);
            at = range.end.max(at);
        }
        pieces.push(self.body.slice(at..));
        pieces.retain(|piece| !piece.is_empty());
        Rope(pieces)
    }
}

/// Text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
