//! Reads one table of the merged configuration, setting by setting, and collects what is wrong instead of stopping at it.

use std::{cell::RefCell, collections::BTreeSet, net::SocketAddr, ops::RangeInclusive, path::Path, time::Duration};

use ai4free_ports::{budget::Budget, money::PicoUsdSum, provider_settings::Secret, runtime::Calendar};
use config::{Map, Value, ValueKind};

use super::{
    environment::{Environment, read_small_file},
    errors::{Problem, suggestion},
};

/// What all sections share while a configuration is read.
pub(super) struct Reading<'a> {
    pub(super) environment: &'a Environment,
    pub(super) calendar: &'a dyn Calendar,
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<String>>,
    secret_paths: RefCell<BTreeSet<String>>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(environment: &'a Environment, calendar: &'a dyn Calendar) -> Self {
        Self {
            environment,
            calendar,
            problems: RefCell::default(),
            notes: RefCell::default(),
            secret_paths: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn problem_at(&self, path: impl Into<String>, origin: Option<&str>, message: impl Into<String>) {
        let origin = origin.map(str::to_owned);
        self.problem(Problem { path: path.into(), origin, message: message.into() });
    }

    /// One line for the log.
    pub(super) fn note(&self, line: String) {
        self.notes.borrow_mut().push(line);
    }

    /// A value, or `None` and its problem on the list.
    pub(super) fn keep<T>(&self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problem(problem)).ok()
    }

    /// Follows `env:NAME` and `file:PATH`; any other text is the secret itself.
    pub(super) fn resolve(&self, text: &str) -> Result<Secret, String> {
        if let Some(name) = text.strip_prefix("env:") {
            let variable = self.environment.get(name).map_err(|problem| problem.to_string())?;
            let variable = variable.ok_or_else(|| format!("refers to the variable {name}, which is not set"))?;
            return Ok(Secret::new(variable.value));
        }
        match text.strip_prefix("file:") {
            Some(path) => read_small_file(Path::new(path)).map(Secret::new),
            None => Ok(Secret::new(text.to_owned())),
        }
    }

    /// Problems, lines for the log, paths of secrets.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<String>, BTreeSet<String>) {
        (self.problems.into_inner(), self.notes.into_inner(), self.secret_paths.into_inner())
    }
}

/// One table. A getter that finds a mistake reports it and answers with something harmless: what was read is thrown away
/// when there was any problem. [`Section::finish`] must be called last: it reports the keys that nobody asked for.
pub(super) struct Section<'a> {
    path: String,
    table: Option<&'a Map<String, Value>>,
    reading: &'a Reading<'a>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a Map<String, Value>, reading: &'a Reading<'a>) -> Self {
        Self { path: String::new(), table: Some(table), reading, known: RefCell::default() }
    }

    pub(super) fn reading(&self) -> &'a Reading<'a> {
        self.reading
    }

    pub(super) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reports a problem of a setting of this section.
    pub(super) fn wrong(&self, key: &str, message: impl Into<String>) {
        let origin = self.table.and_then(|table| table.get(key)).and_then(origin_of);
        self.reading.problem_at(self.path(key), origin, message);
    }

    pub(super) fn text(&self, key: &'static str) -> String {
        self.optional_text(key).unwrap_or_default()
    }

    /// `None` when it is empty or absent.
    pub(super) fn optional_text(&self, key: &'static str) -> Option<String> {
        match &self.value(key)?.kind {
            ValueKind::String(text) if text.is_empty() => None,
            ValueKind::String(text) => Some(text.clone()),
            ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::Boolean(_) => {
                self.value(key).and_then(|value| value.clone().into_string().ok())
            }
            _ => self.expected(key, "a text"),
        }
    }

    pub(super) fn boolean(&self, key: &'static str, fallback: bool) -> bool {
        match self.value(key).map(|value| &value.kind) {
            None => fallback,
            Some(ValueKind::Boolean(yes)) => *yes,
            Some(ValueKind::String(text)) if matches!(&*text.to_ascii_lowercase(), "true" | "1" | "yes" | "on") => true,
            Some(ValueKind::String(text)) if matches!(&*text.to_ascii_lowercase(), "false" | "0" | "no" | "off") => {
                false
            }
            Some(_) => self.expected(key, "true or false").unwrap_or(fallback),
        }
    }

    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        let least = *range.start();
        self.optional_number(key, range).unwrap_or(least)
    }

    pub(super) fn optional_number(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match &self.value(key)?.kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::U64(number) => Some(*number),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        number.filter(|number| range.contains(number)).or_else(|| self.expected(key, &expected()))
    }

    pub(super) fn seconds(&self, key: &'static str, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(key, range))
    }

    pub(super) fn optional_seconds(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<Duration> {
        self.optional_number(key, range).map(Duration::from_secs)
    }

    /// US dollars, a must: a text or a whole number, since a float is not exact.
    pub(super) fn amount(&self, key: &'static str) -> Option<PicoUsdSum> {
        let amount = match self.value(key).map(|value| &value.kind) {
            Some(ValueKind::String(text)) => Budget::parse_amount(text),
            Some(ValueKind::I64(dollars)) => Budget::parse_amount(&dollars.to_string()),
            _ => None,
        };
        amount.or_else(|| self.expected(key, "US dollars in quotes, like \"5.00\", at most 9000000000"))
    }

    /// An array, or from the environment a JSON array or a comma list.
    pub(super) fn list(&self, key: &'static str) -> Vec<String> {
        let texts = match self.value(key).map(|value| &value.kind) {
            None => Some(Vec::new()),
            Some(ValueKind::String(text)) => split_list(text),
            Some(ValueKind::Array(items)) => items
                .iter()
                .map(|item| match &item.kind {
                    ValueKind::String(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
            Some(_) => None,
        };
        texts.or_else(|| self.expected(key, "a list of texts")).unwrap_or_default()
    }

    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.optional_text(key)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        let names = choices.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        found.or_else(|| self.expected(key, &format!("one of {names}")))
    }

    /// `HOST:PORT`, where the host is an IP address or `localhost`.
    pub(super) fn address(&self, key: &'static str) -> Option<SocketAddr> {
        let text = self.optional_text(key)?.replace("localhost:", "127.0.0.1:");
        text.parse().ok().or_else(|| self.expected(key, "an IP address and a port, like 127.0.0.1:5000 or [::1]:5000"))
    }

    /// `None` when it is empty or absent.
    pub(super) fn secret(&self, key: &'static str) -> Option<Secret> {
        self.reading.secret_paths.borrow_mut().insert(self.path(key));
        let text = self.optional_text(key)?;
        self.reading.resolve(&text).map_err(|message| self.wrong(key, message)).ok()
    }

    pub(super) fn secrets(&self, key: &'static str) -> Vec<Secret> {
        self.reading.secret_paths.borrow_mut().insert(self.path(key));
        let resolve = |text: &String| self.reading.resolve(text).map_err(|message| self.wrong(key, message)).ok();
        self.list(key).iter().filter_map(resolve).collect()
    }

    pub(super) fn section(&self, key: &'static str) -> Self {
        let value = self.value(key);
        let table = value.and_then(table_of);
        if value.is_some() && table.is_none() {
            self.expected::<()>(key, "a section");
        }
        self.child(self.path(key), table)
    }

    /// `None` when it is absent.
    pub(super) fn optional_section(&self, key: &'static str) -> Option<Self> {
        self.value(key).map(|_| self.section(key))
    }

    /// Whether a setting is this text.
    pub(super) fn says(&self, key: &'static str, text: &str) -> bool {
        matches!(self.value(key).map(|value| &value.kind), Some(ValueKind::String(written)) if written == text)
    }

    /// The tables of a section whose keys are chosen by the operator.
    pub(super) fn named(&self, key: &'static str) -> Vec<(String, Self)> {
        self.section(key).children()
    }

    /// All members as sections of their own: of a section whose keys are chosen by the operator.
    pub(super) fn children(&self) -> Vec<(String, Self)> {
        let mut children = Vec::new();
        for (name, value) in self.table.into_iter().flatten() {
            match table_of(value) {
                Some(table) => children.push((name.clone(), self.child(self.path(name), Some(table)))),
                None => self.wrong(name, "expected a section"),
            }
        }
        children.sort_by(|(a, _), (b, _)| a.cmp(b));
        children
    }

    /// An array of tables.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let items = match self.value(key).map(|value| &value.kind) {
            None => return Vec::new(),
            Some(ValueKind::Array(items)) => items,
            Some(_) => return self.expected(key, "an array of tables").unwrap_or_default(),
        };
        let mut sections = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let path = format!("{}[{number}]", self.path(key));
            match table_of(item) {
                Some(table) => sections.push(self.child(path, Some(table))),
                None => self.reading.problem_at(path, item.origin(), "expected a table"),
            }
        }
        sections
    }

    /// Reports the keys that no getter asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, value) in self.table.into_iter().flatten().filter(|(key, _)| !known.contains(key.as_str())) {
            let message = format!("unknown setting{}", suggestion(key, known.iter().copied()));
            self.reading.problem_at(self.path(key), origin_of(value), message);
        }
    }

    fn child(&self, path: String, table: Option<&'a Map<String, Value>>) -> Self {
        Self { path, table, reading: self.reading, known: RefCell::default() }
    }

    fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().insert(key);
        self.table?.get(key)
    }

    fn expected<T>(&self, key: &str, what: &str) -> Option<T> {
        self.wrong(key, format!("expected {what}"));
        None
    }
}

/// A JSON array of texts and numbers, or texts with commas between.
pub(super) fn split_list(text: &str) -> Option<Vec<String>> {
    if !text.trim_start().starts_with('[') {
        return Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect());
    }
    let items: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
    let item = |item: serde_json::Value| match item {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    items.into_iter().map(item).collect()
}

/// `limits.models."gpt-4.1"`: quoted as TOML would.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if bare { key.to_owned() } else { format!("\"{key}\"") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn table_of(value: &Value) -> Option<&Map<String, Value>> {
    match &value.kind {
        ValueKind::Table(table) => Some(table),
        _ => None,
    }
}

/// Merging drops the origin of a table; that of something in it is as good.
fn origin_of(value: &Value) -> Option<&str> {
    value.origin().or_else(|| table_of(value)?.values().find_map(origin_of))
}
