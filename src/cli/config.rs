//! `config`: what the gateway would start with.

use serde_json::json;

use super::{
    arguments::GlobalArguments,
    exit::ExitStatus,
    output::{self, Format},
    session,
};
use crate::config::{ConfigErrors, Problem};

#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigVerb {
    /// Report everything that is wrong
    Check,
    /// Print the effective configuration, without secrets
    Show,
}

pub(super) fn run(global: GlobalArguments, verb: &ConfigVerb) -> anyhow::Result<ExitStatus> {
    let format = global.output;
    let settings = match (session::settings(global), verb, format) {
        (Err(errors), ConfigVerb::Check, Format::Json) => {
            output::print_json(&problems(&errors))?;
            return Ok(ExitStatus::Configuration);
        }
        (loaded, _, _) => loaded?,
    };
    match (verb, format) {
        (ConfigVerb::Check, Format::Json) => {
            output::print_json(&json!({ "valid": true, "problems": [], "notes": settings.notes }))?;
        }
        (ConfigVerb::Check, Format::Table | Format::Csv) => {
            let notes: String = settings.notes.iter().map(|note| format!("\nnote: {note}")).collect();
            output::print_line(&format!("the configuration is valid{notes}"))?;
        }
        (ConfigVerb::Show, Format::Json) => {
            output::print_json(&serde_json::to_value(toml::from_str::<toml::Table>(settings.show())?)?)?;
        }
        (ConfigVerb::Show, Format::Table | Format::Csv) => output::print_line(settings.show().trim_end())?,
    }
    Ok(ExitStatus::Success)
}

fn problems(errors: &ConfigErrors) -> serde_json::Value {
    let problem =
        |problem: &Problem| json!({ "path": problem.path, "origin": problem.origin, "message": problem.message });
    let problems: Vec<_> = errors.problems().iter().map(problem).collect();
    json!({ "valid": false, "problems": problems })
}
