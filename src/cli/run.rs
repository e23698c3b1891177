//! From arguments to an exit code.

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use super::{
    arguments::{Arguments, GlobalArguments, Verb},
    completions, config, db, doctor,
    exit::{ExitStatus, Misuse},
    healthcheck, keys, ledger, man, models, openapi, output, providers,
    serve::{self, ServeArguments},
    session::Session,
    usage,
};

/// Does what the process was started for.
#[must_use]
pub fn run() -> ExitCode {
    // Ends the process itself for --help, --version (0) and wrong usage (2).
    let arguments = Arguments::parse();
    execute(arguments)
        .unwrap_or_else(|error| {
            output::complain(&format!("error: {error:#}"));
            ExitStatus::of(&error)
        })
        .into()
}

fn execute(arguments: Arguments) -> anyhow::Result<ExitStatus> {
    let Arguments { global, serve: before_verb, verb } = arguments;
    let verb = verb.unwrap_or(Verb::Serve(ServeArguments::default()));
    if before_verb.is_given() && !matches!(verb, Verb::Serve(_)) {
        return Err(Misuse("--host and --port belong to `serve`".to_owned()).into());
    }
    match verb {
        Verb::Serve(arguments) => serve::run(global, arguments.or(before_verb)),
        Verb::Db(verb) => in_session(global, async |session| db::run(session, verb).await),
        Verb::OldDb(verb) => in_session(global, async |session| db::run(session, verb.into()).await),
        Verb::Keys(verb) => in_session(global, async |session| keys::run(session, verb).await),
        Verb::Models(verb) => models::run(&Session::open(global)?, &verb),
        Verb::Providers(verb) => providers::run(&Session::open(global)?, &verb),
        Verb::Usage(verb) => in_session(global, async |session| usage::run(session, verb).await),
        Verb::Ledger(verb) => in_session(global, async |session| ledger::run(session, verb).await),
        Verb::Openapi => openapi::run(),
        Verb::Config(verb) => config::run(global, &verb),
        Verb::Doctor => in_session(global, doctor::run),
        Verb::Healthcheck(arguments) => {
            let target = healthcheck::target(&global, &arguments);
            Ok(runtime()?.block_on(healthcheck::run(target)))
        }
        Verb::Completions { shell } => completions::run(shell),
        Verb::Man => man::run(),
    }
}

fn in_session(
    global: GlobalArguments,
    verb: impl AsyncFnOnce(&Session) -> anyhow::Result<ExitStatus>,
) -> anyhow::Result<ExitStatus> {
    let session = Session::open(global)?;
    runtime()?.block_on(Box::pin(verb(&session)))
}

pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}
