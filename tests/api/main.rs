//! The gateway from outside: the real binary, over each pair of stores, in front of a provider that does as it is told.
//!
//! `AI4FREE_TEST_STORES` chooses the stores; see [`support::stores`].

#![expect(clippy::disallowed_methods, reason = "a test has a clock and tasks of its own")]
#![expect(clippy::string_slice, reason = "keys are ASCII")]

#[cfg(test)]
mod support;

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod audio;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod cors;
#[cfg(test)]
mod disconnect;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod images;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod models;
mod old_models;
#[cfg(test)]
mod providers;
#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod slices;
#[cfg(test)]
mod spool_full;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod uptime;
#[cfg(test)]
mod usage;
