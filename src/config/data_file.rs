//! Reads a data file (`data/models.json`, `data/providers.json`) and merges the operator's files of the same form over it,
//! entry by entry.

use std::{fs, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{errors::Problem, section::Reading};

/// The only form so far.
const VERSION: u64 = 1;

pub(super) struct DataFile {
    /// The members beside the entries; later files win.
    pub(super) header: Map<String, Value>,
    pub(super) entries: Vec<RawEntry>,
}

pub(super) struct RawEntry {
    pub(super) id: String,
    /// The last file that said something of it.
    pub(super) origin: String,
    members: Map<String, Value>,
}

impl RawEntry {
    /// `None`, and a problem, when it does not have the form of an entry.
    pub(super) fn parse<T: DeserializeOwned>(self, reading: &Reading<'_>) -> Option<T> {
        let parsed = serde_json::from_value(Value::Object(self.members));
        parsed.map_err(|error| reading.problem_at(self.id, Some(&self.origin), error.to_string())).ok()
    }
}

/// `list` is the member that holds the entries, `known` the other members that are allowed. `inherit` sees each entry with
/// the header of its own file.
pub(super) fn read(
    embedded: (&str, &str),
    files: &[String],
    (list, known): (&str, &[&str]),
    reading: &Reading<'_>,
    inherit: impl Fn(&mut Map<String, Value>, &Map<String, Value>),
) -> DataFile {
    let mut merged = DataFile { header: Map::new(), entries: Vec::new() };
    let (name, text) = embedded;
    let operators = files.iter().map(|path| (path.clone(), read_file(Path::new(path))));
    for (origin, text) in std::iter::once((name.to_owned(), Ok(text.to_owned()))).chain(operators) {
        let problem = |message: String| Problem { path: String::new(), origin: Some(origin.clone()), message };
        let parsed = text.and_then(|text| split(&text, list, known)).map_err(problem);
        let Some((header, entries)) = reading.keep(parsed) else { continue };
        let mut seen = std::collections::BTreeSet::new();
        for mut members in entries {
            inherit(&mut members, &header);
            let Some(id) = members.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned)
            else {
                reading.problem(problem(format!("an entry of `{list}` has no id")));
                continue;
            };
            if !seen.insert(id.clone()) {
                reading.problem(problem(format!("`{id}` is there twice")));
            }
            merged.overlay(id, members, &origin);
        }
        merged.header.extend(header);
    }
    merged
}

impl DataFile {
    /// Members replace members of the same name; `null` takes one away.
    fn overlay(&mut self, id: String, members: Map<String, Value>, origin: &str) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else {
            return self.entries.push(RawEntry { id, origin: origin.to_owned(), members });
        };
        origin.clone_into(&mut entry.origin);
        for (key, value) in members {
            if value.is_null() {
                entry.members.remove(&key);
            } else {
                entry.members.insert(key, value);
            }
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("can't be read: {}", error.kind()))
}

type Parts = (Map<String, Value>, Vec<Map<String, Value>>);

fn split(text: &str, list: &str, known: &[&str]) -> Result<Parts, String> {
    let mut header: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if header.get("version").and_then(Value::as_u64) != Some(VERSION) {
        return Err(format!("expected `\"version\": {VERSION}`"));
    }
    let Some(Value::Array(items)) = header.shift_remove(list) else {
        return Err(format!("expected an array `{list}`"));
    };
    if let Some(unknown) = header.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown member `{unknown}`"));
    }
    let object = |item| match item {
        Value::Object(members) => Ok(members),
        _ => Err(format!("an entry of `{list}` is not an object")),
    };
    Ok((header, items.into_iter().map(object).collect::<Result<_, _>>()?))
}
