//! API keys, their secrets, the sequence of their changes, and the peppers that their secrets are hashed with.

use sea_orm_migration::{
    DbErr, SchemaManager,
    sea_orm::{self, DeriveIden},
    sea_query::{ColumnDef, ForeignKey, ForeignKeyAction, Index, IntoIden, Query, Table, TableCreateStatement},
};

#[derive(DeriveIden)]
enum ApiKey {
    Table,
    Id,
    Name,
    UserId,
    Plan,
    RequestsPerMinute,
    ImageRequestsPerMinute,
    TokensPerMinute,
    MaxConcurrentRequests,
    /// JSON array of text.
    Models,
    MaxOutputTokens,
    ExpiresAt,
    RevokedAt,
    CreatedAt,
    LastUsedAt,
    Prefix,
    Last4,
    Version,
    CreatedSequence,
    ChangedSequence,
}

#[derive(DeriveIden)]
enum ApiKeySecret {
    Table,
    KeyId,
    Position,
    Hmac,
    PepperVersion,
    ExpiresAt,
}

/// One row, counted up in the transaction of every change of a key.
///
/// Not a database sequence: those hand out numbers outside of transactions, so that number 8 may be committed before number
/// 7, and a poller that has seen 8 never looks for 7 again. The lock on this row lets changes commit in the order of their
/// numbers.
#[derive(DeriveIden)]
enum KeyChangeSequence {
    Table,
    Id,
    Last,
}

#[derive(DeriveIden)]
enum Pepper {
    Table,
    Version,
    Fingerprint,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    for table in [api_key(), api_key_secret(), key_change_sequence(), pepper()] {
        manager.create_table(table).await?;
    }
    unique_index(manager, "api_key_created_sequence", ApiKey::CreatedSequence).await?;
    unique_index(manager, "api_key_changed_sequence", ApiKey::ChangedSequence).await?;
    let first = Query::insert()
        .into_table(KeyChangeSequence::Table)
        .columns([KeyChangeSequence::Id, KeyChangeSequence::Last])
        .values([1.into(), 0.into()])
        .map_err(|error| DbErr::Migration(error.to_string()))?
        .to_owned();
    manager.execute(first).await
}

pub(super) async fn drop(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    for table in [
        Pepper::Table.into_iden(),
        KeyChangeSequence::Table.into_iden(),
        ApiKeySecret::Table.into_iden(),
        ApiKey::Table.into_iden(),
    ] {
        manager.drop_table(Table::drop().table(table).if_exists().to_owned()).await?;
    }
    Ok(())
}

async fn unique_index(manager: &SchemaManager<'_>, name: &str, column: ApiKey) -> Result<(), DbErr> {
    manager.create_index(Index::create().name(name).table(ApiKey::Table).col(column).unique().to_owned()).await
}

fn api_key() -> TableCreateStatement {
    Table::create()
        .table(ApiKey::Table)
        .col(ColumnDef::new(ApiKey::Id).text().not_null().primary_key())
        .col(ColumnDef::new(ApiKey::Name).text().not_null())
        .col(ColumnDef::new(ApiKey::UserId).text())
        .col(ColumnDef::new(ApiKey::Plan).text().not_null())
        .col(ColumnDef::new(ApiKey::RequestsPerMinute).big_integer())
        .col(ColumnDef::new(ApiKey::ImageRequestsPerMinute).big_integer())
        .col(ColumnDef::new(ApiKey::TokensPerMinute).big_integer())
        .col(ColumnDef::new(ApiKey::MaxConcurrentRequests).big_integer())
        .col(ColumnDef::new(ApiKey::Models).text().not_null())
        .col(ColumnDef::new(ApiKey::MaxOutputTokens).big_integer())
        .col(ColumnDef::new(ApiKey::ExpiresAt).big_integer())
        .col(ColumnDef::new(ApiKey::RevokedAt).big_integer())
        .col(ColumnDef::new(ApiKey::CreatedAt).big_integer().not_null())
        .col(ColumnDef::new(ApiKey::LastUsedAt).big_integer())
        .col(ColumnDef::new(ApiKey::Prefix).text().not_null())
        .col(ColumnDef::new(ApiKey::Last4).text().not_null())
        .col(ColumnDef::new(ApiKey::Version).big_integer().not_null())
        .col(ColumnDef::new(ApiKey::CreatedSequence).big_integer().not_null())
        .col(ColumnDef::new(ApiKey::ChangedSequence).big_integer().not_null())
        .to_owned()
}

fn api_key_secret() -> TableCreateStatement {
    Table::create()
        .table(ApiKeySecret::Table)
        .col(ColumnDef::new(ApiKeySecret::KeyId).text().not_null())
        .col(ColumnDef::new(ApiKeySecret::Position).small_integer().not_null())
        .col(ColumnDef::new(ApiKeySecret::Hmac).binary().not_null())
        .col(ColumnDef::new(ApiKeySecret::PepperVersion).integer().not_null())
        .col(ColumnDef::new(ApiKeySecret::ExpiresAt).big_integer())
        .primary_key(Index::create().col(ApiKeySecret::KeyId).col(ApiKeySecret::Position))
        .foreign_key(
            ForeignKey::create()
                .from(ApiKeySecret::Table, ApiKeySecret::KeyId)
                .to(ApiKey::Table, ApiKey::Id)
                .on_delete(ForeignKeyAction::Cascade),
        )
        .to_owned()
}

fn key_change_sequence() -> TableCreateStatement {
    Table::create()
        .table(KeyChangeSequence::Table)
        .col(ColumnDef::new(KeyChangeSequence::Id).small_integer().not_null().primary_key())
        .col(ColumnDef::new(KeyChangeSequence::Last).big_integer().not_null())
        .to_owned()
}

fn pepper() -> TableCreateStatement {
    Table::create()
        .table(Pepper::Table)
        .col(ColumnDef::new(Pepper::Version).integer().not_null().primary_key())
        .col(ColumnDef::new(Pepper::Fingerprint).binary().not_null())
        .to_owned()
}
