//! Who may append for a spool, and how far the ledger has got with it.

use sea_orm::entity::prelude::{
    ActiveModelBehavior, DeriveEntityModel, DerivePrimaryKey, DeriveRelation, EntityTrait, EnumIter, PrimaryKeyTrait,
    Uuid,
};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "spool")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) generation: i64,
    pub(crate) acknowledged: i64,
    /// 1 live, 2 missed (some of its requests may be held), 3 clean.
    pub(crate) state: i16,
    /// None of its requests holds money of this epoch or an earlier one, and the ledger has all their events.
    pub(crate) closed_epoch: i64,
    /// When it was last known to live, in microseconds by the database's clock.
    pub(crate) beat_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
