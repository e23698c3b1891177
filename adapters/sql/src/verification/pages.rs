//! All events of some days, in pages.

use sea_orm::{DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::ExprTrait};

use crate::{
    entity::usage_event,
    event_span::{ADMISSION, day_of, first_id},
    failure::Failure,
    keyset::{after, before},
};

const PAGE: u64 = 2000;

/// By ids, from a little before the first instant to a little after the last. No request is cut by the end of a page.
pub(super) struct Pages<'a> {
    transaction: &'a DatabaseTransaction,
    end: i64,
    last: (i32, sea_orm::entity::prelude::Uuid, i32, i16, i32),
    /// Rows of a request that may go on with the next page.
    begun: Vec<usage_event::Model>,
    is_done: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn new(transaction: &'a DatabaseTransaction, from: i64, to: i64) -> Self {
        let begin = from.saturating_sub(ADMISSION);
        let last = (day_of(begin), first_id(begin), -1, 0, 0);
        Self { transaction, end: to.saturating_add(ADMISSION), last, begun: Vec::new(), is_done: false }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<usage_event::Model>>, Failure> {
        use usage_event::Column::{Attempt, Day, Kind, RequestId, Revision};
        while !self.is_done {
            let (day, request, attempt, kind, revision) = self.last;
            let place = [day.into(), request.into(), attempt.into(), kind.into(), revision.into()];
            let page = usage_event::Entity::find()
                .filter(after([Day, RequestId, Attempt, Kind, Revision], place))
                .filter(before([Day, RequestId], [day_of(self.end).into(), first_id(self.end).into()]))
                .order_by_asc(Day)
                .order_by_asc(RequestId)
                .order_by_asc(Attempt)
                .order_by_asc(Kind)
                .order_by_asc(Revision)
                .limit(PAGE)
                .all(self.transaction)
                .await?;
            self.is_done = (page.len() as u64) < PAGE;
            if let Some(row) = page.last() {
                self.last = (row.day, row.request_id, row.attempt, row.kind, row.revision);
            }
            let mut rows = std::mem::take(&mut self.begun);
            rows.extend(page);
            if !self.is_done {
                let whole = rows.partition_point(|row| (row.day, row.request_id) < (self.last.0, self.last.1));
                self.begun = rows.split_off(whole);
            }
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// Whether the ledger goes on where the pages end.
    pub(super) async fn is_more_to_come(&self) -> Result<bool, Failure> {
        use usage_event::Column::{Day, RequestId};
        let later = usage_event::Entity::find()
            .select_only()
            .column(Day)
            .filter(before([Day, RequestId], [day_of(self.end).into(), first_id(self.end).into()]).not())
            .order_by_asc(Day)
            .order_by_asc(RequestId)
            .limit(1);
        Ok(later.into_tuple::<i32>().one(self.transaction).await?.is_some())
    }
}
