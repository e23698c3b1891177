//! The system secret and the pepper: given, kept in the data directory's `secrets.toml`, derived, or made on first need.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ai4free_ports::{provider_settings::Secret, runtime::SecretSource};
use zeroize::Zeroizing;

use super::{
    errors::{ConfigErrors, Problem},
    keys::check_secret,
    settings::Settings,
};

/// No `Debug`.
pub struct Secrets {
    pub system_secret: Secret,
    /// The newest pepper; its version is the number of previous ones plus one.
    pub pepper: PepperSource,
    /// The oldest first: versions 1, 2, …
    pub previous_peppers: Vec<Secret>,
    /// The file that was written, when something had to be made.
    pub generated: Option<PathBuf>,
}

pub enum PepperSource {
    /// `AI4FREE__KEYS__PEPPER`.
    Given(Secret),
    /// Of `secrets.toml`.
    File(Secret),
    /// To be derived from the system secret.
    Derive,
}

/// What `secrets.toml` holds.
#[derive(Default)]
struct Stored {
    system_secret: Option<Secret>,
    pepper: Option<Secret>,
}

/// Call it once the process owns its data directory. Makes what is missing, and only with SQLite: replicas on Postgres
/// would each make their own.
///
/// # Errors
/// A secrets file that can't be read or written, or holds something else.
pub fn resolve(settings: &Settings, random: &dyn SecretSource) -> Result<Secrets, ConfigErrors> {
    let path = settings.data_dir.join("secrets.toml");
    let mut stored = read(&path)?.unwrap_or_default();
    let mut generated = None;
    let given = &settings.keys;
    if given.system_secret.is_none() && stored.system_secret.is_none() {
        if !settings.database.is_sqlite() {
            return Err(problem(&path, "Postgres needs SYSTEM_SECRET, the same for every replica").into());
        }
        if given.pepper.is_none() && stored.pepper.is_none() {
            stored.pepper = Some(random_secret(random));
        }
        stored.system_secret = Some(random_secret(random));
        stored = write(&path, &stored)?;
        generated = Some(path.clone());
    }
    let system_secret = given.system_secret.clone().or(stored.system_secret);
    Ok(Secrets {
        system_secret: system_secret.ok_or_else(|| problem(&path, "holds no system_secret"))?,
        pepper: match (&given.pepper, stored.pepper) {
            (Some(pepper), _) => PepperSource::Given(pepper.clone()),
            (None, Some(pepper)) => PepperSource::File(pepper),
            (None, None) => PepperSource::Derive,
        },
        previous_peppers: given.previous_peppers.clone(),
        generated,
    })
}

fn read(path: &Path) -> Result<Option<Stored>, Problem> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(path, &format!("can't be read: {}", error.kind()))),
    };
    let table: toml::Table = toml::from_str(&text).map_err(|_| problem(path, "is not valid TOML"))?;
    let mut stored = Stored::default();
    for (key, value) in table {
        let place = match key.as_str() {
            "system_secret" => &mut stored.system_secret,
            "pepper" => &mut stored.pepper,
            _ => return Err(problem(path, &format!("holds an unknown secret `{key}`"))),
        };
        let toml::Value::String(secret) = value else { return Err(problem(path, &format!("`{key}` is not a text"))) };
        check_secret(&secret).map_err(|message| problem(path, &format!("`{key}` {message}")))?;
        *place = Some(Secret::new(secret));
    }
    Ok(Some(stored))
}

/// Written beside and renamed, so that nobody ever reads half of it.
fn write(path: &Path, stored: &Stored) -> Result<Stored, Problem> {
    let failed = |error: std::io::Error| problem(path, &format!("can't be written: {}", error.kind()));
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let new = path.with_extension("toml.new");
    let mut text = Zeroizing::new(String::from(
        "# Made by ai4free. Who has this file has every key. Back it up: without the pepper, no key works.\n",
    ));
    for (name, secret) in [("system_secret", &stored.system_secret), ("pepper", &stored.pepper)] {
        if let Some(secret) = secret {
            text.push_str(&format!("{name} = \"{}\"\n", secret.expose().escape_default()));
        }
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    read(path)?.ok_or_else(|| problem(path, "vanished while it was written"))
}

/// 32 random bytes in hexadecimal.
fn random_secret(random: &dyn SecretSource) -> Secret {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    random.fill(bytes.as_mut_slice());
    Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn problem(path: &Path, message: &str) -> Problem {
    Problem { path: String::new(), origin: Some(path.display().to_string()), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Sources, load, test_calendar::TwoZones};

    struct Counting(std::sync::atomic::AtomicU8);
    impl SecretSource for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    const STRONG: &str = "zL0b9cq2vH8sT1xW7nR4kP6mY3dF5gJ0";

    fn settings(directory: &Path, variables: &[(&str, &str)]) -> Settings {
        let mut sources = Sources::default();
        sources.flags.data_dir = Some(directory.to_owned());
        sources.environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        load(&sources, &TwoZones).unwrap()
    }

    #[test]
    fn with_nothing_given_both_are_made_once_and_kept_private() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let random = Counting(0.into());
        let first = resolve(&settings(&data, &[]), &random).unwrap();
        let file = first.generated.unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let second = resolve(&settings(&data, &[]), &random).unwrap();
        assert!(second.generated.is_none());
        assert_eq!(first.system_secret.expose(), second.system_secret.expose());
        let (PepperSource::File(first), PepperSource::File(second)) = (first.pepper, second.pepper) else { panic!() };
        assert_eq!(first.expose(), second.expose());
    }

    #[test]
    fn a_given_pepper_wins_over_the_file_and_the_file_over_derivation() {
        let directory = tempfile::tempdir().unwrap();
        let random = Counting(0.into());
        let derived = resolve(&settings(directory.path(), &[("SYSTEM_SECRET", STRONG)]), &random).unwrap();
        assert!(matches!(derived.pepper, PepperSource::Derive));
        assert!(!directory.path().join("secrets.toml").exists());
        resolve(&settings(directory.path(), &[]), &random).unwrap();
        let kept = resolve(&settings(directory.path(), &[("SYSTEM_SECRET", STRONG)]), &random).unwrap();
        assert_eq!(kept.system_secret.expose(), STRONG);
        assert!(matches!(kept.pepper, PepperSource::File(_)));
        let given = settings(directory.path(), &[("AI4FREE__KEYS__PEPPER", STRONG)]);
        assert!(matches!(resolve(&given, &random).unwrap().pepper, PepperSource::Given(_)));
    }

    #[test]
    fn a_damaged_file_is_named_and_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("secrets.toml"), "pepper = \"canary-is-short\"").unwrap();
        let error = resolve(&settings(directory.path(), &[]), &Counting(0.into())).err().unwrap().to_string();
        assert!(error.contains("secrets.toml") && error.contains("shorter") && !error.contains("canary"), "{error}");
    }
}
