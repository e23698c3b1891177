//! `serve`: the gateway itself.

use std::net::IpAddr;

use super::{arguments::GlobalArguments, exit::ExitStatus, run::runtime, session};
use crate::{telemetry, wiring};

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct ServeArguments {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long)]
    pub(super) host: Option<IpAddr>,
    /// Port to listen on [default: 5000]
    #[arg(long)]
    pub(super) port: Option<u16>,
}

impl ServeArguments {
    /// These, with those that are not given taken from `before`: the flags before the verb.
    pub(super) fn or(self, before: Self) -> Self {
        Self { host: self.host.or(before.host), port: self.port.or(before.port) }
    }

    pub(super) fn is_given(self) -> bool {
        self.host.is_some() || self.port.is_some()
    }
}

pub(super) fn run(global: GlobalArguments, arguments: ServeArguments) -> anyhow::Result<ExitStatus> {
    let mut settings = session::settings(global)?;
    if let Some(host) = arguments.host {
        settings.server.listen.set_ip(host);
    }
    if let Some(port) = arguments.port {
        settings.server.listen.set_port(port);
    }
    runtime()?.block_on(async {
        let telemetry = telemetry::start(&settings.telemetry)?;
        for note in &settings.notes {
            tracing::info!("{note}");
        }
        Box::pin(wiring::serve(settings, telemetry)).await
    })?;
    Ok(ExitStatus::Success)
}
