//! Enough of a Rust lexer to tell code from comments, literals and tests.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Identifier(String),
    PathSeparator,
    Symbol(char),
    Literal,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

impl Token {
    pub(crate) fn identifier(&self) -> Option<&str> {
        if let Kind::Identifier(name) = &self.kind { Some(name) } else { None }
    }

    pub(crate) fn is_symbol(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol(symbol)
    }
}

/// Code without comments; literals keep their place only.
pub(crate) fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { characters: text.chars().collect(), at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(character) = lexer.peek(0) {
        let line = lexer.line;
        let kind = match (character, lexer.peek(1)) {
            ('/', Some('/')) => {
                lexer.line_comment();
                continue;
            }
            ('/', Some('*')) => {
                lexer.block_comment();
                continue;
            }
            ('"', _) => {
                lexer.quoted('"');
                Kind::Literal
            }
            ('\'', _) => {
                lexer.quote_or_lifetime();
                Kind::Literal
            }
            (':', Some(':')) => {
                lexer.bump();
                lexer.bump();
                Kind::PathSeparator
            }
            (digit, _) if digit.is_ascii_digit() => {
                lexer.take_while(is_name);
                Kind::Literal
            }
            (letter, _) if is_name(letter) => lexer.name_or_prefixed_literal(),
            _ => {
                lexer.bump();
                if character.is_whitespace() {
                    continue;
                }
                Kind::Symbol(character)
            }
        };
        tokens.push(Token { line, kind });
    }
    tokens
}

/// Cuts out each item that is marked `#[cfg(test)]`, and counts the lines that it took.
pub(crate) fn without_tests(tokens: &[Token]) -> (Vec<Token>, usize) {
    let mut kept = Vec::new();
    let mut test_lines = 0;
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        if let Some(item) = after_cfg_test(rest) {
            let remaining = after_item(item);
            let taken = rest.len() - remaining.len();
            let last_line = rest.get(taken.saturating_sub(1)).map_or(first.line, |token| token.line);
            test_lines += last_line + 1 - first.line;
            rest = remaining;
        } else {
            kept.push(first.clone());
            rest = after;
        }
    }
    (kept, test_lines)
}

struct Lexer {
    characters: Vec<char>,
    at: usize,
    line: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.peek(0)?;
        self.at += 1;
        self.line += usize::from(character == '\n');
        Some(character)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(character) = self.peek(0).filter(|character| wanted(*character)) {
            taken.push(character);
            self.bump();
        }
        taken
    }

    fn line_comment(&mut self) {
        self.take_while(|character| character != '\n');
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let mut open = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => open += 1,
                (Some('*'), Some('/')) => open -= 1,
                (None, _) => return,
                _ => {
                    self.bump();
                    continue;
                }
            }
            self.bump();
            self.bump();
            if open == 0 {
                return;
            }
        }
    }

    /// From the opening quote to the closing one.
    fn quoted(&mut self, quote: char) {
        self.bump();
        while let Some(character) = self.bump() {
            if character == '\\' {
                self.bump();
            } else if character == quote {
                return;
            }
        }
    }

    /// From the first `#` or quote after the `r`.
    fn raw_string(&mut self) {
        let hashes = self.take_while(|character| character == '#').len();
        self.bump();
        while let Some(character) = self.bump() {
            if character == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                self.at += hashes;
                return;
            }
        }
    }

    /// After a `'`: `'a` is a lifetime, `'a'` and `'\n'` are characters.
    fn quote_or_lifetime(&mut self) {
        if self.peek(1) == Some('\\') || self.peek(2) == Some('\'') {
            self.quoted('\'');
        } else {
            self.bump();
            self.take_while(is_name);
        }
    }

    /// A name, a raw name, or a literal whose prefix looks like one: `r"…"`, `b'…'`, `br#"…"#`, `c"…"`.
    fn name_or_prefixed_literal(&mut self) -> Kind {
        let name = self.take_while(is_name);
        let is_raw = name.ends_with('r') && name.len() <= 2;
        let quote = self.peek(0);
        match quote {
            Some('#') if name == "r" && self.peek(1).is_some_and(|next| next.is_alphabetic() || next == '_') => {
                self.bump();
                return Kind::Identifier(self.take_while(is_name));
            }
            Some('"') if is_raw => self.raw_string(),
            Some('#') if is_raw && matches!(self.peek(1), Some('"' | '#')) => self.raw_string(),
            Some('"' | '\'') if matches!(name.as_str(), "b" | "c") => self.quoted(quote.unwrap_or('"')),
            _ => return Kind::Identifier(name),
        }
        Kind::Literal
    }
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// What follows `#[cfg(test)]`, if the tokens begin with it.
fn after_cfg_test(tokens: &[Token]) -> Option<&[Token]> {
    let mut rest = tokens;
    for wanted in ["#", "[", "cfg", "(", "test", ")", "]"] {
        let (token, after) = rest.split_first()?;
        let is_wanted = token.identifier() == Some(wanted) || wanted.chars().all(|symbol| token.is_symbol(symbol));
        rest = is_wanted.then_some(after)?;
    }
    Some(rest)
}

/// What follows an item with its attributes: after its `;`, or after the brace that closes its body.
fn after_item(tokens: &[Token]) -> &[Token] {
    let mut depth = 0_usize;
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token.kind {
            Kind::Symbol('{' | '(' | '[') => depth += 1,
            Kind::Symbol(close @ ('}' | ')' | ']')) => {
                depth = depth.saturating_sub(1);
                if depth == 0 && close == '}' {
                    return rest;
                }
            }
            Kind::Symbol(';') if depth == 0 => return rest,
            _ => {}
        }
    }
    rest
}
