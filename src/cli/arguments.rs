//! What may be written on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::{
    config::ConfigVerb,
    db::{DbVerb, OldDbVerb},
    healthcheck::HealthcheckArguments,
    keys::KeysVerb,
    ledger::LedgerVerb,
    models::ModelsVerb,
    output::Format,
    providers::ProvidersVerb,
    serve::ServeArguments,
    usage::UsageVerb,
};

/// An OpenAI-compatible gateway in front of many LLM providers.
///
/// Without a verb it serves.
#[derive(Debug, Parser)]
#[command(
    name = "ai4free",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 69 a dependency is down, 78 wrong configuration."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: GlobalArguments,
    #[command(flatten)]
    pub(super) serve: ServeArguments,
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

/// Understood by every verb, before it or after it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GlobalArguments {
    /// Configuration file, TOML or YAML [default: ai4free.toml, if it exists]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Directory of the database, the usage spool and generated secrets [default: ./.ai4free]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub(super) data_dir: Option<PathBuf>,
    /// How results are written to stdout
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(super) output: Format,
    /// What is logged to stderr: error, warn, info, debug, trace, or directives as in RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
    /// How log lines are written [possible values: auto, json, text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(super) log_format: Option<String>,
    /// Log errors only
    #[arg(short, long, global = true, conflicts_with = "log_level")]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Serve the API (what happens without a verb)
    Serve(ServeArguments),
    /// Create, migrate and remove the tables
    #[command(subcommand)]
    Db(DbVerb),
    /// Administer API keys
    #[command(subcommand)]
    Keys(KeysVerb),
    /// Look at the models that are served
    #[command(subcommand)]
    Models(ModelsVerb),
    /// Look at the providers that are configured
    #[command(subcommand)]
    Providers(ProvidersVerb),
    /// Report what was used and what it cost
    #[command(subcommand)]
    Usage(UsageVerb),
    /// Check the ledger, and correct it
    #[command(subcommand)]
    Ledger(LedgerVerb),
    /// Print the OpenAPI specification
    Openapi,
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Look at everything that the gateway needs
    Doctor,
    /// Ask a running gateway whether it is alive: exit code 0 or 1
    Healthcheck(HealthcheckArguments),
    /// Print completions for a shell
    Completions { shell: Shell },
    /// Print the manual page
    Man,
    #[command(flatten)]
    OldDb(OldDbVerb),
}
