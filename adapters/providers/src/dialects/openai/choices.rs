//! What a stream has said so far: who it is, which choices it has begun and ended, and their tool calls.

use ai4free_ports::error::ProviderError;
use serde_json::{Map, Value};

use super::error::protocol;

/// As many as `n` may be.
const MAX_CHOICES: usize = 128;
const MAX_TOOL_CALLS: usize = 1024;

pub(super) const OBJECT: &str = "chat.completion.chunk";

/// What is the same in every chunk: taken from the first one that has a choice.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
}

#[derive(Debug, Default)]
pub(super) struct Choices(Vec<Choice>);

/// A choice whose first delta has been seen.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) index: u64,
    pub(super) is_finished: bool,
    pub(super) calls: Calls,
}

/// The tool calls of a choice, in the order of their first fragments: their position is their index for the client.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

#[derive(Debug)]
struct Call {
    upstream_index: Option<u64>,
    id: String,
}

/// Which call a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// It begins one.
    First,
    /// It continues the one at this position.
    Of(usize),
}

impl Identity {
    pub(super) fn of(chunk: &Map<String, Value>) -> Self {
        let text = |name| chunk.get(name).and_then(Value::as_str).filter(|text: &&str| !text.is_empty());
        Self {
            id: text("id").unwrap_or("chatcmpl-unknown").to_owned(),
            created: chunk.get("created").and_then(whole_number).unwrap_or(0),
            model: text("model").unwrap_or("unknown").to_owned(),
        }
    }

    /// Members of a chunk and what they must be.
    pub(super) fn members(&self) -> [(&'static str, Value); 4] {
        [
            ("id", self.id.as_str().into()),
            ("object", OBJECT.into()),
            ("created", self.created.into()),
            ("model", self.model.as_str().into()),
        ]
    }
}

impl Choices {
    pub(super) fn get(&self, index: u64) -> Option<&Choice> {
        self.0.iter().find(|choice| choice.index == index)
    }

    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut Choice> {
        self.0.iter_mut().find(|choice| choice.index == index)
    }

    pub(super) fn begin(&mut self, index: u64) -> Result<(), ProviderError> {
        if self.0.len() >= MAX_CHOICES {
            return Err(protocol("a stream has too many choices"));
        }
        self.0.push(Choice { index, is_finished: false, calls: Calls::default() });
        Ok(())
    }

    /// Whether there are any, and each has its finish reason.
    pub(super) fn are_finished(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|choice| choice.is_finished)
    }
}

impl Calls {
    /// Vendors leave the index out, begin at 1, leave gaps, or use 0 for every call: a new id begins a new call.
    pub(super) fn find(&self, upstream_index: Option<u64>, id: Option<&str>, has_name: bool) -> Fragment {
        let of_index =
            upstream_index.and_then(|index| self.0.iter().rposition(|call| call.upstream_index == Some(index)));
        let of_id = id.and_then(|id| self.0.iter().position(|call| call.id == id));
        match (of_index, of_id, id) {
            (_, Some(known), _) => Fragment::Of(known),
            (Some(known), None, None) => Fragment::Of(known),
            (Some(known), None, Some(_)) if !has_name => Fragment::Of(known),
            (None, None, None) if upstream_index.is_none() && !has_name && !self.0.is_empty() => {
                Fragment::Of(self.0.len() - 1)
            }
            _ => Fragment::First,
        }
    }

    pub(super) fn begin(&mut self, upstream_index: Option<u64>, id: String) -> Result<(), ProviderError> {
        if self.0.len() >= MAX_TOOL_CALLS {
            return Err(protocol("a reply has too many tool calls"));
        }
        self.0.push(Call { upstream_index, id });
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether the provider counts this call as the client does, so that its fragments can pass as they are.
    pub(super) fn is_straight(&self, index: u64) -> bool {
        // The last one that took an index is meant.
        let position = self.0.iter().rposition(|call| call.upstream_index == Some(index));
        position.and_then(|position| u64::try_from(position).ok()) == Some(index)
    }
}

fn whole_number(value: &Value) -> Option<i64> {
    let written = value.as_number()?.to_string();
    written.split('.').next()?.parse().ok()
}
