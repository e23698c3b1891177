//! The tables as sea-orm entities: the same for both databases. They never leave this crate.

pub(crate) mod api_key;
pub(crate) mod api_key_secret;
pub(crate) mod budget_window;
pub(crate) mod key_change_sequence;
pub(crate) mod limiter_epoch;
pub(crate) mod pepper;
pub(crate) mod spool;
pub(crate) mod usage_event;
pub(crate) mod usage_hour;
pub(crate) mod usage_provider_hour;
pub(crate) mod usage_retention;
pub(crate) mod usage_user_hour;
