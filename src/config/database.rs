//! `[database]`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ai4free_ports::provider_settings::Secret;
use percent_encoding::percent_decode_str;

use super::section::Section;

/// No `Debug`: the URL holds a password.
#[derive(Clone)]
pub struct Database {
    pub location: DatabaseLocation,
    /// Of Postgres.
    pub max_connections: u32,
    pub acquire_timeout: Duration,
    /// Whether `serve` migrates.
    pub migrate: bool,
}

#[derive(Clone)]
pub enum DatabaseLocation {
    Sqlite { path: PathBuf },
    Postgres { url: Secret },
}

impl Database {
    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        matches!(self.location, DatabaseLocation::Sqlite { .. })
    }
}

pub(super) fn read(section: Section<'_>, data_dir: &Path) -> Database {
    let by_default = || DatabaseLocation::Sqlite { path: data_dir.join("ai4free.db") };
    let location = match section.secret("url") {
        None => by_default(),
        Some(url) => location(url.expose()).unwrap_or_else(|message| {
            section.wrong("url", message);
            by_default()
        }),
    };
    let database = Database {
        location,
        max_connections: u32::try_from(section.number("max_connections", 1..=1000)).unwrap_or(1),
        acquire_timeout: section.seconds("acquire_timeout_seconds", 1..=600),
        migrate: section.boolean("migrate", true),
    };
    section.finish();
    database
}

fn location(url: &str) -> Result<DatabaseLocation, &'static str> {
    let (scheme, rest) = url.split_once(':').ok_or("expected postgres://… or sqlite:PATH")?;
    // SQLAlchemy names its driver: postgresql+psycopg2://
    match scheme.split('+').next() {
        Some("postgres" | "postgresql") if rest.starts_with("//") => {
            Ok(DatabaseLocation::Postgres { url: Secret::new(format!("postgres:{rest}")) })
        }
        Some("sqlite") => {
            let path = rest.strip_prefix("//").unwrap_or(rest).split('?').next().unwrap_or_default();
            if path.is_empty() || path == ":memory:" {
                return Err("a database in memory would lose the ledger: name a file");
            }
            let path = percent_decode_str(path).decode_utf8().map_err(|_| "the path is not UTF-8")?;
            Ok(DatabaseLocation::Sqlite { path: path.into_owned().into() })
        }
        _ => Err("expected postgres://… or sqlite:PATH"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        match location(url) {
            Ok(DatabaseLocation::Sqlite { path }) => format!("sqlite {}", path.display()),
            Ok(DatabaseLocation::Postgres { url }) => url.expose().to_owned(),
            Err(message) => message.to_owned(),
        }
    }

    #[test]
    fn the_usual_forms_of_a_database_url_are_understood() {
        assert_eq!(shown("postgresql+psycopg2://u:p@h/d?sslmode=require"), "postgres://u:p@h/d?sslmode=require");
        assert_eq!(shown("sqlite:///var/lib/a.db?mode=rwc"), "sqlite /var/lib/a.db");
        assert_eq!(shown("sqlite:a%20b.db"), "sqlite a b.db");
        assert!(shown("sqlite::memory:").contains("lose the ledger"));
        assert!(shown("mysql://h/d").starts_with("expected"));
    }
}
