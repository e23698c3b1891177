//! The check that most events of a stream pass: of the same reply, with choices that have begun and go on, and nothing that
//! has to be read or mended. It is a scan; what does not pass is left to [`super::sanitise`].

use super::{
    choices::{Choices, Identity, OBJECT},
    json::Scanner,
};

/// What the top-level members of a good event are, as they are written.
#[derive(Debug)]
pub(super) struct Template {
    id: Vec<u8>,
    created: Vec<u8>,
    model: Vec<u8>,
    /// Everything before `"choices"`, if it has the four members that are the same in every event: then one comparison
    /// checks them all.
    head: Vec<u8>,
}

const ID: u8 = 1;
const MEMBER_OBJECT: u8 = 2;
const CREATED: u8 = 4;
const MODEL: u8 = 8;
const CHOICES: u8 = 16;
const HEAD: u8 = ID | MEMBER_OBJECT | CREATED | MODEL;

impl Template {
    pub(super) fn new(identity: &Identity) -> Self {
        let [id, _, created, model] = identity.members().map(|(_, value)| value.to_string().into_bytes());
        Self { id, created, model, head: Vec::new() }
    }

    /// Remembers the beginning of an event that needed no mending.
    pub(super) fn learn(&mut self, payload: &[u8]) {
        if !self.head.is_empty() && payload.starts_with(&self.head) {
            return;
        }
        self.head.clear();
        let mut scanner = Scanner::new(payload, 0);
        let mut seen = 0;
        let mut head_length = || {
            scanner.take(b'{')?;
            loop {
                let start = scanner.position();
                let key = scanner.key()?;
                if key == b"choices" {
                    return Some(start);
                }
                let value = scanner.value()?;
                self.check_member(key, value, &mut seen)?;
                scanner.take(b',')?;
            }
        };
        if let Some(head) = head_length().and_then(|length| payload.get(..length)).filter(|_| seen == HEAD) {
            self.head = head.to_vec();
        }
    }

    /// Bytes of output in an event that may leave as it is. `None`: it has to be looked at.
    pub(super) fn verify(&self, payload: &[u8], choices: &Choices) -> Option<u64> {
        // Strings must not hold control characters, and the scanner does not look for them.
        if payload.iter().fold(false, |found, byte| found | (*byte < 0x20)) {
            return None;
        }
        std::str::from_utf8(payload).ok()?;
        let has_head = !self.head.is_empty() && payload.starts_with(&self.head);
        let mut seen = if has_head { HEAD } else { 0 };
        let mut scanner = Scanner::new(payload, if has_head { self.head.len() } else { 0 });
        if !has_head {
            scanner.take(b'{')?;
        }
        let mut output = 0;
        scanner.members(|scanner, key| {
            if key == b"choices" {
                seen = with(seen, CHOICES)?;
                output = verify_choices(scanner, choices)?;
                return Some(());
            }
            let value = scanner.value()?;
            self.check_member(key, value, &mut seen)
        })?;
        (scanner.is_at_end() && seen == HEAD | CHOICES).then_some(output)
    }

    fn check_member(&self, key: &[u8], value: &[u8], seen: &mut u8) -> Option<()> {
        let (member, expected) = match key {
            b"id" => (ID, self.id.as_slice()),
            b"created" => (CREATED, self.created.as_slice()),
            b"model" => (MODEL, self.model.as_slice()),
            b"object" => {
                *seen = with(*seen, MEMBER_OBJECT)?;
                let name = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
                return (name == OBJECT.as_bytes()).then_some(());
            }
            b"usage" | b"error" => return (value == b"null").then_some(()),
            b"x_groq" => return None,
            _ => return Some(()),
        };
        *seen = with(*seen, member)?;
        (value == expected).then_some(())
    }
}

/// `None` when it was there before.
fn with(seen: u8, member: u8) -> Option<u8> {
    (seen & member == 0).then_some(seen | member)
}

fn verify_choices(scanner: &mut Scanner<'_>, choices: &Choices) -> Option<u64> {
    let (mut output, mut count) = (0, 0);
    scanner.array(|scanner| {
        count += 1;
        output += verify_choice(scanner, choices)?;
        Some(())
    })?;
    (count > 0).then_some(output)
}

/// A choice that has begun and does not end here.
fn verify_choice(scanner: &mut Scanner<'_>, choices: &Choices) -> Option<u64> {
    let (mut index, mut delta, mut has_finish) = (None, None, false);
    scanner.object(|scanner, key| {
        match key {
            b"index" if index.is_none() => index = Some(whole_number(scanner)?),
            b"delta" if delta.is_none() => delta = Some(verify_delta(scanner)?),
            b"finish_reason" if !has_finish => {
                scanner.null()?;
                has_finish = true;
            }
            b"index" | b"delta" | b"finish_reason" => return None,
            _ => {
                scanner.value()?;
            }
        }
        Some(())
    })?;
    let choice = choices.get(index?).filter(|choice| has_finish && !choice.is_finished)?;
    let delta = delta?;
    delta.call.is_none_or(|call| choice.calls.is_straight(call)).then_some(delta.output)
}

struct Delta {
    output: u64,
    /// Index of the tool call that it goes on with.
    call: Option<u64>,
}

fn verify_delta(scanner: &mut Scanner<'_>) -> Option<Delta> {
    let mut delta = Delta { output: 0, call: None };
    scanner.object(|scanner, key| {
        match key {
            b"content" | b"reasoning_content" | b"reasoning" | b"refusal" => {
                delta.output += scanner.string_or_null()?;
            }
            b"tool_calls" => {
                scanner.array(|scanner| {
                    // More than one in an event are rare.
                    if delta.call.is_some() {
                        return None;
                    }
                    let (index, output) = verify_call(scanner)?;
                    delta.call = Some(index);
                    delta.output += output;
                    Some(())
                })?;
            }
            b"role" | b"function_call" => scanner.null()?,
            b"audio" => delta.output += u64::try_from(scanner.value()?.len()).ok()?,
            _ => {
                scanner.value()?;
            }
        }
        Some(())
    })?;
    Some(delta)
}

/// A fragment of a call that has begun: it repeats neither id nor name.
fn verify_call(scanner: &mut Scanner<'_>) -> Option<(u64, u64)> {
    let (mut index, mut output) = (None, 0);
    scanner.object(|scanner, key| {
        match key {
            b"index" if index.is_none() => index = Some(whole_number(scanner)?),
            b"function" => scanner.object(|scanner, key| {
                match key {
                    b"arguments" => output += scanner.string()?.length,
                    b"name" => scanner.null()?,
                    _ => {
                        scanner.value()?;
                    }
                }
                Some(())
            })?,
            b"id" | b"type" => scanner.null()?,
            _ => return None,
        }
        Some(())
    })?;
    Some((index?, output))
}

fn whole_number(scanner: &mut Scanner<'_>) -> Option<u64> {
    std::str::from_utf8(scanner.value()?).ok()?.parse().ok()
}
