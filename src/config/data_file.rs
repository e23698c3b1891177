//! Reads a data file (`data/models.json`, `data/providers.json`) and merges the operator's files of the same form over it,
//! entry by entry.

use std::{collections::BTreeSet, fs, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{errors::Problem, section::Reading};

/// The only form so far.
const VERSION: u64 = 1;

/// `N` lists of entries, each merged by id.
pub(super) struct DataFile<const N: usize> {
    /// The members beside the lists; later files win.
    pub(super) header: Map<String, Value>,
    pub(super) lists: [Vec<RawEntry>; N],
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

/// `lists` are the members that hold entries: a file has at least one of them. `known` are the other members that are allowed.
/// `inherit` sees each entry with the header of its own file.
pub(super) fn read<const N: usize>(
    embedded: (&str, &str),
    files: &[String],
    (lists, known): ([&str; N], &[&str]),
    reading: &Reading<'_>,
    inherit: impl Fn(&mut Map<String, Value>, &Map<String, Value>),
) -> DataFile<N> {
    let mut merged = DataFile { header: Map::new(), lists: [const { Vec::new() }; N] };
    let (name, text) = embedded;
    let operators = files.iter().map(|path| (path.clone(), read_file(Path::new(path))));
    for (origin, text) in std::iter::once((name.to_owned(), Ok(text.to_owned()))).chain(operators) {
        let problem = |message: String| Problem { path: String::new(), origin: Some(origin.clone()), message };
        let parsed = text.and_then(|text| split(&text, lists, known)).map_err(problem);
        let Some((header, parts)) = reading.keep(parsed) else { continue };
        for ((list, entries), merged) in lists.into_iter().zip(parts).zip(&mut merged.lists) {
            let mut seen = BTreeSet::new();
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
                overlay(merged, id, members, &origin);
            }
        }
        merged.header.extend(header);
    }
    merged
}

/// Members replace members of the same name; `null` takes one away.
fn overlay(entries: &mut Vec<RawEntry>, id: String, members: Map<String, Value>, origin: &str) {
    let Some(entry) = entries.iter_mut().find(|entry| entry.id == id) else {
        return entries.push(RawEntry { id, origin: origin.to_owned(), members });
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

fn read_file(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("can't be read: {}", error.kind()))
}

type Entries = Vec<Map<String, Value>>;

/// The header, and the entries of each list.
fn split<const N: usize>(
    text: &str,
    lists: [&str; N],
    known: &[&str],
) -> Result<(Map<String, Value>, [Entries; N]), String> {
    let mut header: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if header.get("version").and_then(Value::as_u64) != Some(VERSION) {
        return Err(format!("expected `\"version\": {VERSION}`"));
    }
    if !lists.iter().any(|list| header.contains_key(*list)) {
        return Err(format!("expected an array `{}`", lists.join("` or `")));
    }
    let mut parts = [const { Vec::new() }; N];
    for (list, entries) in lists.into_iter().zip(&mut parts) {
        *entries = match header.shift_remove(list) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                objects(items).ok_or_else(|| format!("an entry of `{list}` is not an object"))?
            }
            Some(_) => return Err(format!("expected an array `{list}`")),
        };
    }
    if let Some(unknown) = header.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown member `{unknown}`"));
    }
    Ok((header, parts))
}

fn objects(items: Vec<Value>) -> Option<Entries> {
    let object = |item| match item {
        Value::Object(members) => Some(members),
        _ => None,
    };
    items.into_iter().map(object).collect()
}
