//! Sums of the events by user, hour and model.

use sea_orm::entity::prelude::{
    ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter, PrimaryKeyTrait,
};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "usage_user_hour")]
pub(crate) struct Model {
    /// Empty for keys without an owner.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) user_id: String,
    /// Hours since the Unix epoch.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) hour: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) model: String,
    pub(crate) requests: i64,
    pub(crate) successful: i64,
    pub(crate) cancelled: i64,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) cost_micro: i64,
    /// Pico-USD beside the whole micro-USD, added up without carry.
    pub(crate) cost_rest: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
