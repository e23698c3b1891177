//! What the verbs that work on an installation have in common.

use super::{arguments::GlobalArguments, output::Format};
use crate::{
    config::{self, ConfigErrors, Flags, Settings, Sources},
    telemetry, wiring,
};

/// A loaded configuration, and how to answer.
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) format: Format,
}

impl Session {
    /// Loads the configuration and logs warnings to stderr, more when it was asked for.
    pub(super) fn open(global: GlobalArguments) -> anyhow::Result<Self> {
        let format = global.output;
        let sources = sources(global);
        let settings = config::load(&sources, &*wiring::calendar())?;
        let is_asked_for = sources.flags.log_level.is_some() || sources.environment.contains_key("RUST_LOG");
        let level = if is_asked_for { &*settings.telemetry.level } else { "warn" };
        telemetry::log_to_stderr(level, settings.telemetry.log_format)?;
        Ok(Self { settings, format })
    }
}

/// The settings of a verb that does not log.
pub(super) fn settings(global: GlobalArguments) -> Result<Settings, ConfigErrors> {
    config::load(&sources(global), &*wiring::calendar())
}

fn sources(global: GlobalArguments) -> Sources {
    let quiet = global.quiet.then(|| "error".to_owned());
    let flags =
        Flags { data_dir: global.data_dir, log_level: global.log_level.or(quiet), log_format: global.log_format };
    Sources::of_process(global.config, flags)
}
