//! The echo, streamed: words are cut off as they are pulled, so that a long prompt is not blown up into events first.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use ai4free_ports::{
    chat::ChatEvent,
    dialect::{Chunk, EventWriter},
    error::ProviderError,
    llm_provider::Frame,
};
use futures_core::Stream;

use super::answer::{Answer, Content};
use crate::frames::{is_empty, write_events};

pub(super) struct EchoStream {
    answer: Answer,
    writer: Box<dyn EventWriter>,
    next: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Start,
    /// The tool call's name, where the answer is one.
    Open {
        choice: u32,
    },
    /// From this byte of the text or of the arguments.
    Words {
        choice: u32,
        from: usize,
    },
    Usage,
    End,
    Ended,
}

impl EchoStream {
    pub(super) fn new(answer: Answer, writer: Box<dyn EventWriter>) -> Self {
        Self { answer, writer, next: Step::Start }
    }

    fn advance(&mut self) -> Option<ChatEvent> {
        let answer = &self.answer;
        loop {
            let (event, next) = match self.next {
                Step::Start => {
                    let (id, model) = (answer.id.clone(), answer.model.clone());
                    (Some(ChatEvent::Start { id, created: answer.created, model }), Step::Open { choice: 0 })
                }
                Step::Open { choice } if choice >= answer.choices => (None, Step::Usage),
                Step::Open { choice } => (open(answer, choice), Step::Words { choice, from: 0 }),
                Step::Words { choice, from } => match word(answer, choice, from) {
                    Some((event, length)) => (Some(event), Step::Words { choice, from: from + length }),
                    None => {
                        let finish = ChatEvent::Finish { choice, reason: answer.finish };
                        (Some(finish), Step::Open { choice: choice + 1 })
                    }
                },
                Step::Usage => (Some(ChatEvent::Usage(answer.usage)), Step::End),
                Step::End => (Some(ChatEvent::End), Step::Ended),
                Step::Ended => return None,
            };
            self.next = next;
            if event.is_some() {
                return event;
            }
        }
    }
}

impl Stream for EchoStream {
    type Item = Result<Frame, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        while let Some(event) = stream.advance() {
            let Chunk { bytes, facts } = write_events(&mut *stream.writer, [event]);
            let frame = Frame { bytes, facts };
            // Some events are only remembered by the writer until the next one.
            if !is_empty(&frame) {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        Poll::Ready(None)
    }
}

fn open(answer: &Answer, choice: u32) -> Option<ChatEvent> {
    match &answer.content {
        Content::Text(_) => None,
        Content::Call { name, .. } => {
            Some(ChatEvent::ToolCall { choice, call: 0, id: answer.call_id(choice), name: name.clone() })
        }
    }
}

/// The next word with the white space before it, and its length in bytes.
fn word(answer: &Answer, choice: u32, from: usize) -> Option<(ChatEvent, usize)> {
    let (Content::Text(output) | Content::Call { arguments: output, .. }) = &answer.content;
    let rest = output.get(from..).filter(|rest| !rest.is_empty())?;
    let spaces = rest.len() - rest.trim_start().len();
    let length = rest.get(spaces..)?.find(char::is_whitespace).map_or(rest.len(), |word| spaces + word);
    let piece = rest.get(..length)?.to_owned();
    let event = match &answer.content {
        Content::Text(_) => ChatEvent::Text { choice, text: piece },
        Content::Call { .. } => ChatEvent::ToolArguments { choice, call: 0, fragment: piece },
    };
    Some((event, length))
}
