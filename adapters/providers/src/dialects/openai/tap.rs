//! The byte lane of a stream: verifies each event, then forwards the bytes it was read in.

use ai4free_ports::{
    dialect::{Chunk, StreamContext, Tap},
    error::ProviderError,
    llm_provider::Facts,
};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    assembly::Assembly,
    error::protocol,
    sanitise::{Sanitised, Sanitiser},
    verify::Template,
};
use crate::dialects::sse::{self, Event, EventSplitter};

const DONE: &[u8] = b"[DONE]";
const DONE_EVENT: &[u8] = b"data: [DONE]\n\n";

pub(super) struct OpenAiTap {
    context: StreamContext,
    splitter: EventSplitter,
    sanitiser: Sanitiser,
    template: Option<Template>,
    /// What was consumed, kept for its place before the end event.
    usage_event: Option<UsageEvent>,
    /// An error behind good events of one read: they go out first.
    failure: Option<ProviderError>,
    is_done: bool,
}

enum UsageEvent {
    /// The event of the provider, framed.
    AsItCame(Bytes),
    /// The usage object alone: it came in a chunk with choices.
    Of(Value),
}

/// What becomes of an event.
enum Fate {
    /// It leaves as it came.
    Forward,
    /// It leaves in these bytes; they may be none.
    Replace(Bytes),
}

impl OpenAiTap {
    pub(super) fn new(context: StreamContext) -> Self {
        Self {
            context,
            splitter: EventSplitter::default(),
            sanitiser: Sanitiser::default(),
            template: None,
            usage_event: None,
            failure: None,
            is_done: false,
        }
    }

    fn read_events(&mut self, read: &Bytes, out: &mut Assembly<'_>, facts: &mut Facts) -> Result<(), ProviderError> {
        let mut at = 0;
        while !self.is_done {
            match self.splitter.next(read, &mut at)? {
                None => break,
                Some(Event::Within(range)) => match self.event(read.get(range.clone()).unwrap_or_default(), facts)? {
                    Fate::Forward => out.forward(range),
                    Fate::Replace(bytes) => out.push(bytes),
                },
                Some(Event::Carried(event)) => match self.event(&event, facts)? {
                    Fate::Forward => out.push(event),
                    Fate::Replace(bytes) => out.push(bytes),
                },
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &[u8], facts: &mut Facts) -> Result<Fate, ProviderError> {
        if let (Some(payload), Some(template)) = (sse::plain_data(event), &self.template)
            && let Some(output_bytes) = template.verify(payload, &self.sanitiser.choices)
        {
            facts.output_bytes = facts.output_bytes.saturating_add(output_bytes);
            return Ok(Fate::Forward);
        }
        let Some(data) = sse::data(event) else { return Ok(Fate::Replace(Bytes::new())) };
        let payload = data.trim_ascii();
        if payload.is_empty() {
            return Ok(Fate::Replace(Bytes::new()));
        }
        if payload == DONE {
            let end = self.finish(facts)?;
            return Ok(if end == event { Fate::Forward } else { Fate::Replace(end) });
        }
        let is_plain = sse::plain_data(event).is_some_and(|plain| plain == payload);
        self.mend(payload, is_plain, facts)
    }

    fn mend(&mut self, payload: &[u8], is_plain: bool, facts: &mut Facts) -> Result<Fate, ProviderError> {
        let Sanitised { mut chunk, is_changed, has_choices, usage, facts: said } = self.sanitiser.sanitise(payload)?;
        facts.absorb(&said);
        let is_one_line = !payload.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        if let Some(usage) = usage.filter(|_| self.context.include_usage) {
            let is_good = !has_choices && !is_changed && is_one_line && self.sanitiser.identity.is_some();
            self.usage_event = Some(if is_good && chunk.contains_key("usage") {
                UsageEvent::AsItCame(framed(payload))
            } else {
                UsageEvent::Of(usage)
            });
        }
        if !has_choices {
            return Ok(Fate::Replace(Bytes::new()));
        }
        if self.template.is_none() {
            self.template = self.sanitiser.identity.as_ref().map(Template::new);
        }
        if is_changed {
            if !self.context.include_usage {
                chunk.shift_remove("usage");
            }
            return Ok(Fate::Replace(framed_chunk(chunk)));
        }
        if let Some(template) = &mut self.template {
            template.learn(payload);
        }
        Ok(match (is_plain, is_one_line) {
            (true, _) => Fate::Forward,
            (false, true) => Fate::Replace(framed(payload)),
            (false, false) => Fate::Replace(framed_chunk(chunk)),
        })
    }

    fn finish(&mut self, facts: &mut Facts) -> Result<Bytes, ProviderError> {
        if !self.sanitiser.choices.are_finished() {
            return Err(protocol("the stream ended before the reply was complete"));
        }
        self.is_done = true;
        facts.finished = true;
        facts.done = true;
        let usage_event = self.usage_event.take().map(|usage| match usage {
            UsageEvent::AsItCame(event) => event,
            UsageEvent::Of(usage) => framed_chunk(self.sanitiser.usage_chunk(usage)),
        });
        Ok(match usage_event {
            Some(event) => [&event, DONE_EVENT].concat().into(),
            None => Bytes::from_static(DONE_EVENT),
        })
    }

    fn end_of_body(&mut self, out: &mut Assembly<'_>, facts: &mut Facts) -> Result<(), ProviderError> {
        if let Some(event) = self.splitter.finish() {
            match self.event(&event, facts)? {
                Fate::Forward => out.push(event),
                Fate::Replace(bytes) => out.push(bytes),
            }
        }
        if !self.is_done {
            out.push(self.finish(facts)?);
        }
        Ok(())
    }

    /// What was good before an error is delivered before it.
    fn deliver(&mut self, result: Result<(), ProviderError>, chunk: Chunk) -> Result<Chunk, ProviderError> {
        match result {
            Ok(()) => Ok(chunk),
            Err(error) if chunk == Chunk::default() => Err(error),
            Err(error) => {
                self.failure = Some(error);
                Ok(chunk)
            }
        }
    }
}

impl Tap for OpenAiTap {
    fn feed(&mut self, read: Bytes) -> Result<Chunk, ProviderError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let mut out = Assembly::new(&read);
        let mut facts = Facts::default();
        let result = self.read_events(&read, &mut out, &mut facts);
        let chunk = Chunk { bytes: out.into_bytes(), facts };
        self.deliver(result, chunk)
    }

    fn end(&mut self) -> Result<Chunk, ProviderError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if self.is_done {
            return Ok(Chunk::default());
        }
        let nothing = Bytes::new();
        let mut out = Assembly::new(&nothing);
        let mut facts = Facts::default();
        // Nobody asks again after the end: an error here can't wait.
        self.end_of_body(&mut out, &mut facts)?;
        Ok(Chunk { bytes: out.into_bytes(), facts })
    }
}

fn framed(payload: &[u8]) -> Bytes {
    [b"data: ", payload, b"\n\n"].concat().into()
}

fn framed_chunk(chunk: Map<String, Value>) -> Bytes {
    framed(Value::Object(chunk).to_string().as_bytes())
}

#[cfg(test)]
mod tests;
