//! One of the secrets of a key: two while a rotation's grace lasts.

use std::fmt;

use sea_orm::entity::prelude::{
    ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter, PrimaryKeyTrait,
    Related, RelationDef, RelationTrait,
};

use super::api_key;

#[derive(Clone, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "api_key_secret")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) key_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) position: i16,
    pub(crate) hmac: Vec<u8>,
    pub(crate) pepper_version: i32,
    pub(crate) expires_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {
    #[sea_orm(belongs_to = "api_key::Entity", from = "Column::KeyId", to = "api_key::Column::Id")]
    Key,
}

impl Related<api_key::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Key.def()
    }
}

/// The hash stays out of logs.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("api_key_secret").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl ActiveModelBehavior for ActiveModel {}
