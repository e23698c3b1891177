//! Reading a large table in pages, by the columns of its primary key.

use sea_orm::{
    ColumnTrait, Value,
    sea_query::{Expr, ExprTrait},
};

/// Those rows that come after a key. One comparison of tuples, which both databases answer from the index; the usual chain of
/// `OR` would read the table from its beginning for each page.
pub(crate) fn after<C: ColumnTrait>(
    columns: impl IntoIterator<Item = C>,
    key: impl IntoIterator<Item = Value>,
) -> Expr {
    let columns = Expr::tuple(columns.into_iter().map(|column| Expr::col((column.entity_name(), column))));
    columns.gt(Expr::tuple(key.into_iter().map(Expr::val)))
}

pub(crate) fn before<C: ColumnTrait>(
    columns: impl IntoIterator<Item = C>,
    key: impl IntoIterator<Item = Value>,
) -> Expr {
    let columns = Expr::tuple(columns.into_iter().map(|column| Expr::col((column.entity_name(), column))));
    columns.lt(Expr::tuple(key.into_iter().map(Expr::val)))
}
