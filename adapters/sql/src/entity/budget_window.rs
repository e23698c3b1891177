//! What one holder was granted in one window, and what it has settled.

use sea_orm::entity::prelude::{
    ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter, PrimaryKeyTrait,
};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "budget_window")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) scope: String,
    /// Where the window starts.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) win: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) holder: String,
    pub(crate) granted_micro: i64,
    pub(crate) granted_rest: i64,
    pub(crate) settled_micro: i64,
    /// Pico-USD beside the whole micro-USD, added up without carry.
    pub(crate) settled_rest: i64,
    pub(crate) closed: bool,
    /// Not known to a row that only events have made.
    pub(crate) win_end: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
