//! Lays the sources over each other. Every value keeps where it came from.

use std::{fs, path::Path};

use config::{FileFormat, Format, Map, Value, ValueKind};

use super::{environment::Variable, errors::Problem, old_system, section::Reading, sources::Sources};

/// Compiled in: the binary needs no file beside it.
pub(super) const DEFAULTS: &str = include_str!("../../data/ai4free.default.toml");
pub(super) const PREFIX: &str = "AI4FREE__";

/// Variables with a usual name, and the setting that each one is.
pub(super) const USUAL_VARIABLES: &[(&str, &str)] = &[
    ("AI4FREE_DATA_DIR", "data_dir"),
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("SYSTEM_SECRET", "keys.system_secret"),
    ("RUST_LOG", "telemetry.level"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "telemetry.otlp_headers"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
];

/// The whole configuration as one tree, sections and settings not yet checked.
pub(super) fn merge(sources: &Sources, reading: &Reading<'_>) -> Map<String, Value> {
    let mut layers = Layers { root: Value::new(None, Map::<String, Value>::new()), reading };
    layers.add(parse(DEFAULTS, FileFormat::Toml, "default").unwrap_or_else(|message| {
        reading.problem_at("", Some("default"), message);
        Map::new()
    }));
    if sources.on_terminal {
        layers.set("server.pre_stop_seconds", "default on a terminal", 0_i64);
    }
    for (setting, variable) in old_system::settings(reading) {
        layers.set(setting, &variable.origin, variable.value);
    }
    if let Some(file) = reading.keep(read_file(sources)) {
        layers.add(file);
    }
    layers.add_environment();
    for (flag, setting, value) in sources.flags.given() {
        layers.set(setting, &format!("flag {flag}"), value);
    }
    match layers.root.kind {
        ValueKind::Table(table) => table,
        _ => Map::new(),
    }
}

struct Layers<'a> {
    root: Value,
    reading: &'a Reading<'a>,
}

impl Layers<'_> {
    fn add(&mut self, layer: Map<String, Value>) {
        overlay(&mut self.root, Value::new(None, layer));
    }

    /// `setting` is a path of bare keys.
    fn set(&mut self, setting: &str, origin: &str, value: impl Into<ValueKind>) {
        let keys: Vec<&str> = setting.split('.').collect();
        self.set_path(&keys, origin, value);
    }

    fn set_path<K: AsRef<str>>(&mut self, keys: &[K], origin: &str, value: impl Into<ValueKind>) {
        let origin = origin.to_owned();
        let leaf = Value::new(Some(&origin), value);
        let layer = keys.iter().rev().fold(leaf, |inner, key| {
            Value::new(Some(&origin), Map::<String, Value>::from_iter([(key.as_ref().to_owned(), inner)]))
        });
        if let ValueKind::Table(layer) = layer.kind {
            self.add(layer);
        }
    }

    fn add_environment(&mut self) {
        let reading = self.reading;
        let get = |name: &str| reading.keep(reading.environment.get(name)).flatten();
        for (name, setting) in USUAL_VARIABLES {
            if let Some(Variable { value, origin }) = get(name) {
                self.set(setting, &origin, value);
            }
        }
        let (host, port) = (get("HOST"), get("PORT"));
        if let Some(origin) = host.as_ref().or(port.as_ref()).map(|variable| variable.origin.clone()) {
            let listen = self.listen();
            let (old_host, old_port) = listen.rsplit_once(':').unwrap_or((&*listen, "5000"));
            let host = host.map_or_else(|| old_host.to_owned(), |host| bracketed(&host.value));
            let port = port.map_or_else(|| old_port.to_owned(), |port| port.value);
            self.set("server.listen", &origin, format!("{host}:{port}"));
        }
        for name in reading.environment.names_with(PREFIX) {
            let Some(Variable { value, origin }) = get(name) else { continue };
            let keys = self.keys_of(name.strip_prefix(PREFIX).unwrap_or_default());
            self.set_path(&keys, &origin, value);
        }
    }

    /// `SECTION__KEY` as keys: those that exist whatever their case, others in lower case.
    fn keys_of(&self, name: &str) -> Vec<String> {
        let mut at = Some(&self.root);
        let mut keys = Vec::new();
        for part in name.split("__") {
            let table = at.and_then(|value| match &value.kind {
                ValueKind::Table(table) => Some(table),
                _ => None,
            });
            let found = table.and_then(|table| table.iter().find(|(key, _)| same_name(key, part)));
            keys.push(found.map_or_else(|| part.to_ascii_lowercase(), |(key, _)| key.clone()));
            at = found.map(|(_, value)| value);
        }
        keys
    }

    fn listen(&self) -> String {
        let ValueKind::Table(root) = &self.root.kind else { return String::new() };
        let server = root.get("server").and_then(|server| server.clone().into_table().ok()).unwrap_or_default();
        server.get("listen").and_then(|listen| listen.clone().into_string().ok()).unwrap_or_default()
    }
}

/// Whether a name in a variable means this key: variables have neither case nor `-`, `.` and `/`.
pub(super) fn same_name(key: &str, name: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '.', '/', ':'], "_").to_ascii_lowercase();
    plain(key) == plain(name)
}

/// Tables are merged, everything else is replaced.
fn overlay(lower: &mut Value, upper: Value) {
    let ValueKind::Table(members) = &upper.kind else {
        *lower = upper;
        return;
    };
    let ValueKind::Table(table) = &mut lower.kind else {
        *lower = upper;
        return;
    };
    for (key, value) in members {
        match table.get_mut(key) {
            Some(below) => overlay(below, value.clone()),
            None => drop(table.insert(key.clone(), value.clone())),
        }
    }
}

/// IPv6 addresses go into brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn read_file(sources: &Sources) -> Result<Map<String, Value>, Problem> {
    let by_default = sources.default_file.as_deref().filter(|path| path.exists());
    let Some(path) = sources.file.as_deref().or(by_default) else { return Ok(Map::new()) };
    let origin = path.display().to_string();
    let problem = |message| Problem { path: String::new(), origin: Some(origin.clone()), message };
    let text = fs::read_to_string(path).map_err(|error| problem(format!("can't be read: {}", error.kind())))?;
    parse(&text, format_of(path), &origin).map_err(problem)
}

fn format_of(path: &Path) -> FileFormat {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => FileFormat::Yaml,
        _ => FileFormat::Toml,
    }
}

fn parse(text: &str, format: FileFormat, origin: &str) -> Result<Map<String, Value>, String> {
    if format == FileFormat::Toml {
        // Parsed here first because the other's error quotes the line, and with it perhaps a secret.
        toml::from_str::<toml::Table>(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            format!("line {line} is not valid TOML: {}", error.message())
        })?;
    }
    format.parse(Some(&origin.to_owned()), text).map_err(|_| "is not valid YAML, or not a table".to_owned())
}
