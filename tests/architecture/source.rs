//! A Rust file as the rules see it: the paths and identifiers that its code names, and how long it is.

use std::{fs, io, path::Path};

use crate::lexer::{Kind, Token, lex, without_tests};

/// A path that the code names, such as `std::time::Duration`. `self`, `super` and `crate` are resolved: such a path begins
/// with `crate` and goes on with the module's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

impl NamedPath {
    /// Whether the path is `prefix` or something inside it. `prefix` is written with `::`.
    pub(crate) fn is_within(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
    }

    pub(crate) fn text(&self) -> String {
        self.segments.join("::")
    }
}

/// One Rust file. What follows looks at its non-test code only: a `#[cfg(test)]` item, `tests.rs` and `tests/` are tests.
pub(crate) struct SourceFile {
    /// Relative to the workspace, with `/`.
    pub(crate) path: String,
    tokens: Vec<Token>,
    line_count: usize,
}

impl SourceFile {
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
        let (tokens, test_lines) = if is_test { (Vec::new(), text.lines().count()) } else { without_tests(&lex(text)) };
        Self { path: path.to_owned(), tokens, line_count: text.lines().count().saturating_sub(test_lines) }
    }

    /// Lines outside tests, comments and blank ones included.
    pub(crate) fn line_count(&self) -> usize {
        self.line_count
    }

    /// Every identifier with its line, in order.
    pub(crate) fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        self.tokens.iter().filter_map(|token| Some((token.line, token.identifier()?)))
    }

    /// Every path in `use` declarations, with groups written out, and every `a::b` elsewhere.
    pub(crate) fn named_paths(&self) -> Vec<NamedPath> {
        PathReader {
            tokens: &self.tokens,
            at: 0,
            modules: module_of(&self.path),
            open: Vec::new(),
            depth: 0,
            found: Vec::new(),
        }
        .read()
    }

    /// Whether the file has `impl … NAME for …`.
    pub(crate) fn implements(&self, name: &str) -> bool {
        let mut identifiers = self.identifiers().map(|(_, identifier)| identifier).peekable();
        let mut in_header = false;
        while let Some(identifier) = identifiers.next() {
            in_header = identifier == "impl" || (in_header && identifier != "for");
            if in_header && identifier == name && identifiers.peek() == Some(&"for") {
                return true;
            }
        }
        false
    }
}

/// Reads every Rust file under the given folders of the workspace.
pub(crate) fn read_sources(workspace: &Path, folders: &[&str]) -> io::Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    for folder in folders {
        visit_files(workspace, &workspace.join(folder), &mut |path, text| {
            if Path::new(path).extension().is_some_and(|extension| extension == "rs") {
                found.push(SourceFile::parse(path, text));
            }
        })?;
    }
    Ok(found)
}

/// Calls `visit` with each text file under `folder`: its path relative to the workspace, and its text. What git ignores or
/// a tool installed is passed over.
pub(crate) fn visit_files(workspace: &Path, folder: &Path, visit: &mut dyn FnMut(&str, &str)) -> io::Result<()> {
    const NOT_OURS: [&str; 6] = [".ai4free", ".git", ".tools", "__pycache__", "node_modules", "target"];
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                visit_files(workspace, &path, visit)?;
            }
        } else if let (Ok(relative), Ok(text)) = (path.strip_prefix(workspace), fs::read_to_string(&path)) {
            visit(&relative.to_string_lossy().replace('\\', "/"), &text);
        }
    }
    Ok(())
}

/// `adapters/sql/src/entity/mod.rs` is the module `entity` of its crate.
fn module_of(path: &str) -> Vec<String> {
    let inside =
        path.strip_prefix("src/").or_else(|| path.split_once("/src/").map(|(_, inside)| inside)).unwrap_or(path);
    let stem = inside.strip_suffix(".rs").unwrap_or(inside);
    let module = stem.strip_suffix("/mod").unwrap_or(stem);
    if matches!(module, "lib" | "main") { Vec::new() } else { module.split('/').map(str::to_owned).collect() }
}

struct PathReader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Where the code is: the file's module, then the inline modules it is in.
    modules: Vec<String>,
    /// The brace depths at which the inline modules began.
    open: Vec<usize>,
    depth: usize,
    found: Vec<NamedPath>,
}

impl PathReader<'_> {
    fn read(mut self) -> Vec<NamedPath> {
        while let Some(token) = self.peek(0) {
            match &token.kind {
                Kind::Identifier(word) if word == "use" && !self.peek(1).is_some_and(|next| next.is_symbol('<')) => {
                    self.at += 1;
                    self.use_tree(&[]);
                }
                Kind::Identifier(word) if word == "extern" && self.identifier(1) == Some("crate") => {
                    self.at += 2;
                    self.use_tree(&[]);
                }
                Kind::Identifier(word) if word == "mod" && self.peek(2).is_some_and(|next| next.is_symbol('{')) => {
                    self.modules.extend(self.identifier(1).map(str::to_owned));
                    self.open.push(self.depth);
                    self.depth += 1;
                    self.at += 3;
                }
                Kind::Identifier(_) if self.peek(1).is_some_and(|next| next.kind == Kind::PathSeparator) => self.path(),
                Kind::Symbol('{') => {
                    self.depth += 1;
                    self.at += 1;
                }
                Kind::Symbol('}') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.open.last() == Some(&self.depth) {
                        self.open.pop();
                        self.modules.pop();
                    }
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
        self.found
    }

    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn identifier(&self, ahead: usize) -> Option<&str> {
        self.peek(ahead)?.identifier()
    }

    /// `a::b::c`, up to generics.
    fn path(&mut self) {
        let line = self.peek(0).map_or(0, |token| token.line);
        let mut segments = Vec::new();
        while let Some(name) = self.identifier(0) {
            segments.push(name.to_owned());
            self.at += 1;
            if !self.peek(0).is_some_and(|next| next.kind == Kind::PathSeparator) {
                break;
            }
            self.at += 1;
        }
        self.record(line, &segments);
    }

    /// One branch of a `use` declaration, up to its comma, closing brace or semicolon.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        let line = self.peek(0).map_or(0, |token| token.line);
        while let Some(token) = self.peek(0) {
            match &token.kind {
                Kind::Identifier(word) if word == "as" => self.at += 2,
                Kind::Identifier(word) => {
                    segments.push(word.clone());
                    self.at += 1;
                }
                Kind::Symbol('*') => {
                    segments.push("*".to_owned());
                    self.at += 1;
                }
                Kind::Symbol('{') => {
                    self.at += 1;
                    while self.peek(0).is_some_and(|next| !next.is_symbol('}')) {
                        let start = self.at;
                        self.use_tree(&segments);
                        let is_stuck = self.at == start; // a macro's `$name` is no path
                        self.at += usize::from(is_stuck || self.peek(0).is_some_and(|next| next.is_symbol(',')));
                    }
                    self.at += 1;
                    return;
                }
                Kind::PathSeparator => self.at += 1,
                Kind::Symbol(_) | Kind::Literal => break,
            }
        }
        self.at += usize::from(self.peek(0).is_some_and(|next| next.is_symbol(';')));
        self.record(line, &segments);
    }

    fn record(&mut self, line: usize, segments: &[String]) {
        let mut base = self.modules.clone();
        let mut rest = segments;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" => base.clear(),
                "super" => drop(base.pop()),
                "self" => {}
                _ => break,
            }
            rest = after;
        }
        if segments.is_empty() {
            return;
        }
        let is_relative = rest.len() < segments.len();
        let start = if is_relative { std::iter::once("crate".to_owned()).chain(base).collect() } else { Vec::new() };
        self.found.push(NamedPath { line, segments: start.into_iter().chain(rest.iter().cloned()).collect() });
    }
}

#[cfg(test)]
mod tests {
    use super::SourceFile;

    fn paths(path: &str, text: &str) -> Vec<String> {
        SourceFile::parse(path, text).named_paths().iter().map(super::NamedPath::text).collect()
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        let text = "// use poem::web;\n/* a /* poem::web */ poem::web */\n/// [`poem::web`]\nlet a = \"poem::web \\\" poem::web\";\n\
                    let b = r#\"poem::web \" poem::web\"#; let c = b\"poem::x\"; let d = '\"'; let e: &'a str = x; fred::connect()";
        assert_eq!(paths("src/a.rs", text), ["fred::connect"]);
    }

    #[test]
    fn groups_aliases_and_globs_are_written_out() {
        let text = "pub(crate) use a::{b, c::{d as e, self}, f::*}; use ::g as h; extern crate i; impl j::K<l::M> for n::o::<p::Q> {}";
        assert_eq!(
            paths("src/a.rs", text),
            ["a::b", "a::c::d", "a::c::self", "a::f::*", "g", "i", "j::K", "l::M", "n::o", "p::Q"]
        );
    }

    #[test]
    fn relative_paths_are_resolved_from_the_module_they_stand_in() {
        let text = "use super::x; mod inner { use super::y; fn f() { super::super::z() } } use self::w; use crate::http::v; fn g() { super::u() }";
        let expected = [
            "application::x",
            "application::chat::y",
            "application::z",
            "application::chat::w",
            "http::v",
            "application::u",
        ];
        assert_eq!(paths("src/application/chat.rs", text), expected.map(|path| format!("crate::{path}")));
        assert_eq!(
            paths("src/application/mod.rs", "use super::x; use self::y;"),
            ["crate::x", "crate::application::y"]
        );
        assert_eq!(paths("src/lib.rs", "use self::y;"), ["crate::y"]);
    }

    #[test]
    fn tests_are_neither_read_nor_counted() {
        let text = "use a::b;\n#[cfg(test)]\n#[derive(Debug)]\nstruct C { d: [u8; 2] }\nfn e() {}\n#[cfg(test)]\nmod tests {\n    use f::g;\n}\n";
        let file = SourceFile::parse("src/a.rs", text);
        assert_eq!(file.line_count(), 2);
        assert_eq!(paths("src/a.rs", text), ["a::b"]);
        assert_eq!(SourceFile::parse("src/a/tests.rs", text).line_count(), 0);
        assert_eq!(SourceFile::parse("src/a.rs", "#[cfg(test)]\nmod tests;\nfn e() {}\n").line_count(), 1);
    }

    #[test]
    fn an_implementation_is_found_whatever_its_generics() {
        let implements = |text: &str| SourceFile::parse("a.rs", text).implements("Dialect");
        assert!(implements("impl Dialect for OpenAi {}"));
        assert!(implements("impl<T: Send> ports::Dialect for Any<T> {}"));
        assert!(!implements("fn a(dialect: &dyn Dialect) {} impl Other for Dialect {} /* impl Dialect for X */"));
    }
}
