//! Environment variables as a map: the process's, then those of `.env`.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use super::errors::Problem;

/// No secret and no variable is larger; a mistaken path to something huge is not read.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// No `Debug`: it holds every secret of the process.
#[derive(Clone, Default)]
pub struct Environment {
    process: BTreeMap<String, String>,
    dotenv: BTreeMap<String, String>,
}

/// A variable that is set, under the name that it was found by.
#[derive(Clone)]
pub(super) struct Variable {
    pub(super) value: String,
    /// `environment variable NAME`, `NAME_FILE` or the same in `.env`.
    pub(super) origin: String,
}

impl Environment {
    /// # Errors
    /// A `.env` that exists and can't be read or parsed. The message never quotes it.
    pub(super) fn new(process: BTreeMap<String, String>, dotenv: Option<&Path>) -> Result<Self, Problem> {
        let dotenv = match dotenv.filter(|path| path.exists()) {
            Some(path) => read_dotenv(path)?,
            None => BTreeMap::new(),
        };
        Ok(Self { process, dotenv })
    }

    /// The variable, or the content of the file that `NAME_FILE` names. An empty variable counts as not set.
    pub(super) fn get(&self, name: &str) -> Result<Option<Variable>, Problem> {
        let file_name = format!("{name}_FILE");
        for (variables, place) in [(&self.process, ""), (&self.dotenv, " of .env")] {
            if let Some(value) = variables.get(name).filter(|value| !value.is_empty()) {
                return Ok(Some(Variable { value: value.clone(), origin: format!("variable {name}{place}") }));
            }
            if let Some(path) = variables.get(&file_name).filter(|path| !path.is_empty()) {
                let origin = format!("variable {file_name}{place}");
                let problem = |message| Problem { path: String::new(), origin: Some(origin.clone()), message };
                let value = read_small_file(Path::new(path)).map_err(problem)?;
                return Ok((!value.is_empty()).then_some(Variable { value, origin }));
            }
        }
        Ok(None)
    }

    /// The first of these names that is set.
    pub(super) fn first<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Option<Variable>, Problem> {
        for name in names {
            if let Some(variable) = self.get(name)? {
                return Ok(Some(variable));
            }
        }
        Ok(None)
    }

    /// Names that begin with `prefix`, without `_FILE`, each once.
    pub(super) fn names_with(&self, prefix: &str) -> std::collections::BTreeSet<&str> {
        let names = self.process.iter().chain(&self.dotenv).filter(|(_, value)| !value.is_empty());
        names
            .map(|(name, _)| name.strip_suffix("_FILE").unwrap_or(name))
            .filter(|name| name.starts_with(prefix))
            .collect()
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        [&self.process, &self.dotenv].iter().any(|variables| variables.get(name).is_some_and(|value| !value.is_empty()))
    }
}

/// A mounted secret: the content of a small file without the line end that editors add.
pub(super) fn read_small_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| format!("can't open {}: {}", path.display(), error.kind()))?;
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    let read = read.map_err(|error| format!("can't read {}: {}", path.display(), error.kind()))?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_FILE_BYTES) {
        return Err(format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display()));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_dotenv(path: &Path) -> Result<BTreeMap<String, String>, Problem> {
    let problem = |message: String| Problem { path: String::new(), origin: Some(path.display().to_string()), message };
    let entries = dotenvy::from_path_iter(path).map_err(|_| problem("can't be read".to_owned()))?;
    // The library's error quotes the line, and with it a secret.
    let described = |(number, entry): (usize, dotenvy::Result<(String, String)>)| {
        entry.map_err(|_| problem(format!("entry {} is not NAME=VALUE", number + 1)))
    };
    entries.enumerate().map(described).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let process = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { process, dotenv: BTreeMap::new() }
    }

    #[test]
    fn a_mounted_secret_is_read_without_its_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, "canary\n").unwrap();
        let environment = environment(&[("NAME_FILE", path.to_str().unwrap()), ("EMPTY", "")]);
        assert_eq!(environment.get("NAME").unwrap().unwrap().value, "canary");
        assert!(environment.get("EMPTY").unwrap().is_none());
        fs::remove_file(&path).unwrap();
        assert!(environment.get("NAME").err().unwrap().to_string().contains("NAME_FILE"));
    }

    #[test]
    fn the_process_wins_over_dotenv_and_a_broken_dotenv_is_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        fs::write(&path, "A=from-file\nB=\"two words\" # comment\n").unwrap();
        let environment = Environment::new([("A".into(), "from-process".into())].into(), Some(&path)).unwrap();
        assert_eq!(environment.get("A").unwrap().unwrap().value, "from-process");
        assert_eq!(environment.get("B").unwrap().unwrap().value, "two words");
        fs::write(&path, "A=1\nB='canary\n").unwrap();
        let problem = Environment::new(BTreeMap::new(), Some(&path)).err().unwrap();
        assert!(!problem.to_string().contains("canary"), "{problem}");
    }
}
