//! The wire as the specification documents it. Nothing here leaves `http`.

pub(super) mod budget;
pub(super) mod chat;
pub(super) mod error;
pub(super) mod image;
pub(super) mod key;
pub(super) mod model;
pub(super) mod moment;
pub(super) mod usage;
