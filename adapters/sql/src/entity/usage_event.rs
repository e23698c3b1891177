//! One event of the ledger: inserted, never changed.

use sea_orm::entity::prelude::{
    ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter, PrimaryKeyTrait,
    Uuid,
};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "usage_event")]
pub(crate) struct Model {
    /// Days since the Unix epoch, from the request's id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) day: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) request_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) attempt: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) kind: i16,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) revision: i32,
    pub(crate) spool_id: Uuid,
    pub(crate) spool_position: i64,
    pub(crate) operation: i16,
    pub(crate) key_id: String,
    pub(crate) user_id: Option<String>,
    pub(crate) model: String,
    pub(crate) provider: Option<String>,
    pub(crate) credential: Option<String>,
    pub(crate) outcome: i16,
    pub(crate) error: Option<String>,
    pub(crate) admitted_at: i64,
    pub(crate) first_ms: Option<i64>,
    pub(crate) total_ms: Option<i64>,
    pub(crate) input_tokens: i64,
    pub(crate) cache_read_tokens: i64,
    pub(crate) cache_write_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) reasoning_tokens: i64,
    pub(crate) audio_input_tokens: i64,
    pub(crate) audio_output_tokens: i64,
    pub(crate) images: i64,
    pub(crate) usage_source: i16,
    pub(crate) price_version: Option<i64>,
    pub(crate) cost_pico: i64,
    pub(crate) provider_cost_pico: Option<i64>,
    /// JSON array of `[scope, start of the window, holder]`; empty text for none.
    pub(crate) spending: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
