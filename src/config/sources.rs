//! Where a configuration is read from.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    path::PathBuf,
};

/// Everything that a configuration is made of, so that a test needs neither a process environment nor a working directory.
#[derive(Clone, Default)]
pub struct Sources {
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// A `.env` file; ignored if it does not exist. The process environment wins over it.
    pub dotenv: Option<PathBuf>,
    /// `--config`: must exist.
    pub file: Option<PathBuf>,
    /// Read when no file was named; ignored if it does not exist.
    pub default_file: Option<PathBuf>,
    pub flags: Flags,
    /// Whether a person is watching: then there is no load balancer to wait for when stopping.
    pub on_terminal: bool,
}

impl Sources {
    /// Those of this process: its environment, `.env` and `ai4free.toml` of the working directory.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Flags) -> Self {
        Self {
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            dotenv: Some(PathBuf::from(".env")),
            file,
            default_file: Some(PathBuf::from("ai4free.toml")),
            flags,
            on_terminal: stderr().is_terminal(),
        }
    }
}

/// Settings that any verb takes on the command line. They win over everything else.
#[derive(Clone, Default)]
pub struct Flags {
    pub data_dir: Option<PathBuf>,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
}

impl Flags {
    /// Flag, setting, value.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &'static str, String)> {
        let data_dir = self.data_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
        [
            ("--data-dir", "data_dir", data_dir),
            ("--log-level", "telemetry.level", self.log_level.clone()),
            ("--log-format", "telemetry.log_format", self.log_format.clone()),
        ]
        .into_iter()
        .filter_map(|(flag, setting, value)| Some((flag, setting, value?)))
    }
}
