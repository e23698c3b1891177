//! A strict reader of JSON text that builds nothing: the check that lets a streamed event leave as the slice it came in.
//!
//! `None` means "not in the form that is checked here", never "invalid": the caller then asks serde. Whitespace is spaces
//! only, keys have no escapes, nesting is shallow.

use memchr::memchr2;

/// Deeper values are left to serde.
const MAX_DEPTH: u8 = 32;

pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A string as it is written, without its quotes.
pub(super) struct Text<'a> {
    pub(super) raw: &'a [u8],
    /// Length in bytes of UTF-8 after its escapes are resolved.
    pub(super) length: u64,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_spaces();
        self.at >= self.bytes.len()
    }

    pub(super) fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// An object. `member` takes each value; it is given the key.
    pub(super) fn object(&mut self, member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        self.members(member)
    }

    /// What follows the opening brace of an object that is not empty, or a comma in it, up to its end.
    pub(super) fn members(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        loop {
            let key = self.key()?;
            member(self, key)?;
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    /// The key of a member and its colon.
    pub(super) fn key(&mut self) -> Option<&'a [u8]> {
        let key = self.string()?;
        self.take(b':')?;
        (!key.raw.contains(&b'\\')).then_some(key.raw)
    }

    /// An array. `element` takes each element.
    pub(super) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            element(self)?;
            if self.take(b',').is_none() {
                return self.take(b']');
            }
        }
    }

    pub(super) fn string(&mut self) -> Option<Text<'a>> {
        self.take(b'"')?;
        let start = self.at;
        let mut length = 0_u64;
        loop {
            let rest = self.bytes.get(self.at..)?;
            let plain = memchr2(b'"', b'\\', rest)?;
            length += u64::try_from(plain).ok()?;
            self.at += plain + 1;
            if rest.get(plain) == Some(&b'"') {
                return Some(Text { raw: self.bytes.get(start..self.at - 1)?, length });
            }
            length += self.escape()?;
        }
    }

    /// Length of a string, or 0 for `null`.
    pub(super) fn string_or_null(&mut self) -> Option<u64> {
        match self.peek()? {
            b'n' => self.literal(b"null").map(|()| 0),
            _ => self.string().map(|text| text.length),
        }
    }

    pub(super) fn null(&mut self) -> Option<()> {
        self.skip_spaces();
        self.literal(b"null")
    }

    /// A value of any kind, as it is written.
    pub(super) fn value(&mut self) -> Option<&'a [u8]> {
        self.skip_spaces();
        let start = self.at;
        self.skip_value(MAX_DEPTH)?;
        self.bytes.get(start..self.at)
    }

    fn skip_value(&mut self, depth: u8) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.object(|scanner, _| scanner.skip_value(depth))
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                self.array(|scanner| scanner.skip_value(depth))
            }
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.next_is(b'-'));
        let has_leading_zero = self.next_is(b'0');
        let whole = self.digits()?;
        if has_leading_zero && whole > 1 {
            return None;
        }
        if self.next_is(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if self.next_is(b'e') || self.next_is(b'E') {
            self.at += 1;
            self.at += usize::from(self.next_is(b'+') || self.next_is(b'-'));
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<usize> {
        let rest = self.bytes.get(self.at..)?;
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        (count > 0).then_some(count)
    }

    fn literal(&mut self, word: &[u8]) -> Option<()> {
        self.bytes.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    /// What follows a backslash: its length once resolved. Half a surrogate pair counts for half of the four bytes.
    fn escape(&mut self) -> Option<u64> {
        let kind = *self.bytes.get(self.at)?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(1),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at.checked_add(4)?)?;
                self.at += 4;
                let code =
                    digits.iter().try_fold(0, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?))?;
                Some(match code {
                    0..0x80 => 1,
                    0x80..0x800 | 0xd800..0xe000 => 2,
                    _ => 3,
                })
            }
            _ => None,
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_spaces();
        self.bytes.get(self.at).copied()
    }

    fn next_is(&self, byte: u8) -> bool {
        self.bytes.get(self.at) == Some(&byte)
    }

    fn skip_spaces(&mut self) {
        while self.next_is(b' ') {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(text: &str) -> bool {
        let mut scanner = Scanner::new(text.as_bytes(), 0);
        scanner.value().is_some() && scanner.is_at_end()
    }

    #[test]
    fn what_is_not_json_does_not_pass() {
        for text in ["{\"a\":1}", "[ ]", "-0.5e+3", "\"\\u00e9\\n\"", " [1 , {\"b\" : null} , true]"] {
            assert!(accepts(text), "{text}");
        }
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\":}",
            "{\"a\":1,}",
            "01",
            "-",
            "1.",
            "\"\\x\"",
            "\"\\u12g4\"",
            "nul",
            "{a:1}",
            "[1] 2",
        ] {
            assert!(!accepts(text), "{text}");
        }
    }

    #[test]
    fn the_length_of_a_string_is_that_of_the_resolved_text() {
        for text in ["plain", "a\\nb\\\"", "\\u4e2d\\u00e9\\u0041", "\\ud83d\\ude00", "中"] {
            let quoted = format!("\"{text}\"");
            let resolved: String = serde_json::from_str(&quoted).unwrap();
            assert_eq!(Scanner::new(quoted.as_bytes(), 0).string().unwrap().length, resolved.len() as u64, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_passes_that_serde_refuses(text in r#"[\[\]{}",:0-9eE+\-. \\untfalsr]{0,24}"#) {
            if accepts(&text) {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{}", text);
            }
        }
    }
}
