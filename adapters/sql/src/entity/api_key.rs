//! A key, its secrets aside.

use sea_orm::entity::prelude::{
    ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter, PrimaryKeyTrait,
    Related, RelationDef, RelationTrait,
};

use super::api_key_secret;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "api_key")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) user_id: Option<String>,
    pub(crate) plan: String,
    pub(crate) requests_per_minute: Option<i64>,
    pub(crate) image_requests_per_minute: Option<i64>,
    pub(crate) tokens_per_minute: Option<i64>,
    pub(crate) max_concurrent_requests: Option<i64>,
    pub(crate) budget_micro: Option<i64>,
    pub(crate) budget_rest: Option<i64>,
    pub(crate) budget_period: Option<String>,
    pub(crate) budget_time_zone: Option<String>,
    pub(crate) budget_on_redis_down: Option<String>,
    pub(crate) on_redis_down: Option<String>,
    /// JSON array of text.
    pub(crate) models: String,
    pub(crate) max_output_tokens: Option<i64>,
    pub(crate) expires_at: Option<i64>,
    pub(crate) revoked_at: Option<i64>,
    pub(crate) created_at: i64,
    pub(crate) last_used_at: Option<i64>,
    pub(crate) prefix: String,
    pub(crate) last4: String,
    pub(crate) version: i64,
    pub(crate) created_sequence: i64,
    pub(crate) changed_sequence: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {
    #[sea_orm(has_many = "api_key_secret::Entity")]
    Secret,
}

impl Related<api_key_secret::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Secret.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
