//! The tables as sea-orm entities: the same for both databases. They never leave this crate.

pub(crate) mod api_key;
pub(crate) mod api_key_secret;
pub(crate) mod key_change_sequence;
pub(crate) mod pepper;
pub(crate) mod spool;
pub(crate) mod usage_event;
pub(crate) mod usage_hour;
