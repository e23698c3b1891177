//! The command line: without a verb it serves. A file per verb.
//!
//! What was asked for goes to stdout, as a table or as JSON; everything else goes to stderr. Secrets are never arguments:
//! other processes can read those.

mod arguments;
mod completions;
mod config;
mod db;
mod doctor;
mod exit;
mod healthcheck;
mod key_view;
mod keys;
mod ledger;
mod man;
mod models;
mod moment;
mod openapi;
mod output;
mod providers;
mod run;
mod serve;
mod session;
mod usage;

pub use run::run;

#[cfg(test)]
mod tests;
