//! Sums of the events by hour, provider, credential and model.

use sea_orm::entity::prelude::{
    ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter, PrimaryKeyTrait,
};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel, Serialize)]
#[sea_orm(table_name = "usage_provider_hour")]
pub(crate) struct Model {
    /// Hours since the Unix epoch.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) hour: i64,
    /// Empty if none was asked; the credential likewise.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) provider: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) credential: String,
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
