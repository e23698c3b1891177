//! Splits bytes into server-sent events, whatever the reads that they arrive in.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>, with one leniency: what stands
//! at the end of the stream without a blank line is an event too.

use std::{borrow::Cow, ops::Range};

use ai4free_ports::error::{ProviderError, ProviderErrorKind};
use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr2;

/// The longest event that is accepted. Images arrive in events of 10 MiB.
pub(super) const MAX_EVENT_BYTES: usize = 16 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event with its line ends, the blank line included.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It stands whole in the read that was given.
    Within(Range<usize>),
    /// It began in an earlier read.
    Carried(Bytes),
}

/// Keeps what is needed of the last read: each byte is looked at once, however the stream is cut.
#[derive(Debug)]
pub(super) struct EventSplitter {
    carry: BytesMut,
    is_at_line_start: bool,
    /// A line feed that comes now belongs to the line end before it.
    is_after_return: bool,
    is_first: bool,
}

impl Default for EventSplitter {
    fn default() -> Self {
        Self { carry: BytesMut::new(), is_at_line_start: true, is_after_return: false, is_first: true }
    }
}

impl EventSplitter {
    /// The next event in `read` from `at`, which moves on. `None`: the rest is kept for the next read.
    pub(super) fn next(&mut self, read: &[u8], at: &mut usize) -> Result<Option<Event>, ProviderError> {
        let start = *at;
        let rest = read.get(start..).unwrap_or_default();
        let end = self.find_end(rest);
        let taken = end.unwrap_or(rest.len());
        if self.carry.len().saturating_add(taken) > MAX_EVENT_BYTES {
            return Err(ProviderError::new(ProviderErrorKind::Protocol).caused_by("an event is longer than 16 MiB"));
        }
        *at = start.saturating_add(taken);
        if end.is_some() && self.carry.is_empty() {
            let event = rest.get(..taken).unwrap_or_default();
            let mark = self.mark_length(event);
            return Ok(Some(Event::Within(start.saturating_add(mark)..*at)));
        }
        self.carry.extend_from_slice(rest.get(..taken).unwrap_or_default());
        Ok(end.map(|_| Event::Carried(self.take_carry())))
    }

    /// What stands after the last blank line.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        Some(self.take_carry()).filter(|rest| !rest.is_empty())
    }

    /// Length of the event that ends within `bytes`: just after the line end of its blank line.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..)?;
            let first = rest.first()?;
            if self.is_after_return {
                self.is_after_return = false;
                if *first == b'\n' {
                    at += 1;
                    continue;
                }
            }
            let Some(length) = memchr2(b'\n', b'\r', rest) else {
                self.is_at_line_start = false;
                return None;
            };
            let is_blank = self.is_at_line_start && length == 0;
            self.is_after_return = rest.get(length) == Some(&b'\r');
            self.is_at_line_start = true;
            at += length + 1;
            if is_blank {
                return Some(at);
            }
        }
    }

    fn take_carry(&mut self) -> Bytes {
        let mut event = self.carry.split().freeze();
        let mark = self.mark_length(&event);
        event.advance(mark);
        event
    }

    fn mark_length(&mut self, event: &[u8]) -> usize {
        let is_first = std::mem::replace(&mut self.is_first, false);
        if is_first && event.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 }
    }
}

/// The `data` of an event, its lines joined with line feeds. `None`: it has none (a comment, a blank line).
pub(super) fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut lines = Lines(event).filter_map(field_data);
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = [first, b"\n", second].concat();
    for line in lines {
        joined.push(b'\n');
        joined.extend_from_slice(line);
    }
    Some(Cow::Owned(joined))
}

fn field_data(line: &[u8]) -> Option<&[u8]> {
    let value = match line.strip_prefix(b"data")? {
        [] => return Some(&[]),
        [b':', value @ ..] => value,
        _ => return None,
    };
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// Lines that end with CR, LF or both.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let length = memchr2(b'\n', b'\r', self.0).unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at_checked(length)?;
        self.0 = rest.strip_prefix(b"\r\n").or_else(|| rest.get(1..)).unwrap_or_default();
        Some(line)
    }
}

/// What stands between `data: ` and the blank line: the payload, if the event is framed as this gateway frames it. It is not
/// when there is a line end in it.
pub(super) fn plain_data(event: &[u8]) -> Option<&[u8]> {
    event.strip_prefix(b"data: ")?.strip_suffix(b"\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(reads: &[&[u8]]) -> Vec<String> {
        let mut splitter = EventSplitter::default();
        let mut found = Vec::new();
        let mut push = |event: &[u8]| {
            if let Some(data) = data(event) {
                found.push(String::from_utf8_lossy(&data).into_owned());
            }
        };
        for read in reads {
            let mut at = 0;
            while let Some(event) = splitter.next(read, &mut at).unwrap() {
                match event {
                    Event::Within(range) => push(&read[range]),
                    Event::Carried(event) => push(&event),
                }
            }
        }
        if let Some(rest) = splitter.finish() {
            push(&rest);
        }
        found
    }

    #[test]
    fn every_line_end_and_every_cut_gives_the_same_events() {
        let stream = "\u{feff}data: a\n\n: note\n\ndata:b\ndata: c\r\n\r\n\r\nid: 1\rdata\revent: x\r\rretry: 5\n\ndata:  d\u{2028}\n";
        let expected = ["a", "b\nc", "", " d\u{2028}"];
        assert_eq!(split(&[stream.as_bytes()]), expected);
        for at in 0..stream.len() {
            let (head, tail) = stream.as_bytes().split_at(at);
            assert_eq!(split(&[head, tail]), expected, "cut at {at}");
        }
        assert_eq!(split(&stream.as_bytes().chunks(1).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn an_event_has_a_longest_length() {
        let mut splitter = EventSplitter::default();
        let half = vec![b'x'; MAX_EVENT_BYTES / 2];
        assert_eq!(splitter.next(&half, &mut 0).unwrap(), None);
        assert_eq!(splitter.next(&half, &mut 0).unwrap(), None);
        assert_eq!(splitter.next(b"x", &mut 0).unwrap_err().kind, ProviderErrorKind::Protocol);
    }
}
