//! `db`: the tables.

use serde_json::json;

use super::{
    exit::{ExitStatus, Misuse},
    output::Report,
    session::Session,
};
use crate::wiring;

#[derive(Debug, clap::Subcommand)]
pub(super) enum DbVerb {
    /// Create the tables that are missing
    Create,
    /// Apply pending migrations
    Migrate,
    /// List applied and pending migrations
    Status,
    /// Remove everything and create it again, empty
    Reset {
        /// All keys and all usage will be lost
        #[arg(long)]
        yes: bool,
    },
    /// Remove everything
    Clean {
        /// All keys and all usage will be lost
        #[arg(long)]
        yes: bool,
    },
    /// List the tables
    ListTables,
}

/// What the old system called them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum OldDbVerb {
    #[command(hide = true)]
    CreateDb,
    #[command(hide = true)]
    CleanDb {
        #[arg(long)]
        yes: bool,
    },
    #[command(hide = true)]
    ResetDb {
        #[arg(long)]
        yes: bool,
    },
    #[command(hide = true)]
    ListTables,
}

impl From<OldDbVerb> for DbVerb {
    fn from(verb: OldDbVerb) -> Self {
        match verb {
            OldDbVerb::CreateDb => Self::Create,
            OldDbVerb::CleanDb { yes } => Self::Clean { yes },
            OldDbVerb::ResetDb { yes } => Self::Reset { yes },
            OldDbVerb::ListTables => Self::ListTables,
        }
    }
}

pub(super) async fn run(session: &Session, verb: DbVerb) -> anyhow::Result<ExitStatus> {
    if matches!(verb, DbVerb::Reset { yes: false } | DbVerb::Clean { yes: false }) {
        return Err(Misuse("all keys and all usage would be lost: repeat it with --yes".to_owned()).into());
    }
    let schema = wiring::schema(&session.settings).await?;
    let report = match verb {
        DbVerb::Create => {
            schema.create().await?;
            done("created")
        }
        DbVerb::Migrate => {
            let applied = schema.migrate().await?;
            list("applied", &applied)
        }
        DbVerb::Status => {
            let status = schema.status().await?;
            migrations(&status.applied, &status.pending)
        }
        DbVerb::Reset { .. } => {
            schema.reset().await?;
            done("reset")
        }
        DbVerb::Clean { .. } => {
            schema.clean().await?;
            done("clean")
        }
        DbVerb::ListTables => {
            let tables = schema.list_tables().await?;
            list("tables", &tables)
        }
    };
    report.print(session.format)?;
    Ok(ExitStatus::Success)
}

fn done(status: &'static str) -> Report {
    Report { headers: vec!["database"], rows: vec![vec![status.to_owned()]], json: json!({ "database": status }) }
}

fn list(what: &'static str, names: &[String]) -> Report {
    let rows = names.iter().map(|name| vec![name.clone()]).collect();
    Report { headers: vec![what], rows, json: json!({ what: names }) }
}

fn migrations(applied: &[String], pending: &[String]) -> Report {
    let row = |state: &'static str| move |name: &String| vec![name.clone(), state.to_owned()];
    let rows = applied.iter().map(row("applied")).chain(pending.iter().map(row("pending"))).collect();
    Report { headers: vec!["migration", "state"], rows, json: json!({ "applied": applied, "pending": pending }) }
}
