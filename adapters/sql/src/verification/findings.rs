//! What was compared, and what differs.

use std::collections::BTreeMap;

use ai4free_ports::{
    money::PicoUsdSum,
    usage_ledger::{Difference, Verification},
};
use sea_orm::{ColumnTrait, DatabaseTransaction, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    failure::Failure,
    keyset::after,
    rollup::{Counts, HourlySums},
};

/// Rows of sums that are read at once.
pub(super) const PAGE: u64 = 2000;
/// No operator reads more, and a ledger that is wrong throughout must not fill the memory.
const DIFFERENCES: usize = 1000;

#[derive(Default)]
pub(super) struct Findings(pub(super) Verification);

impl Findings {
    pub(super) fn compare<T: PartialEq + Default>(
        &mut self,
        name: String,
        stored: &T,
        expected: Option<T>,
        show: impl Fn(&T) -> String,
    ) {
        self.0.sums += 1;
        let expected = expected.unwrap_or_default();
        if *stored != expected {
            self.differ(name, show(stored), show(&expected));
        }
    }

    /// A sum that should be there.
    pub(super) fn miss(&mut self, name: String, expected: String) {
        self.differ(name, "missing".to_owned(), expected);
    }

    /// Compares one table between two hours, and takes what was compared out of `expected`.
    pub(super) async fn compare_hours<E: HourlySums>(
        &mut self,
        transaction: &DatabaseTransaction,
        expected: &mut BTreeMap<(i64, String), Counts>,
        (first, end): (i64, i64),
    ) -> Result<(), Failure> {
        let later = expected.split_off(&(end, String::new()));
        let mut expected = std::mem::replace(expected, later);
        let mut last = None;
        loop {
            let mut page = E::find().filter(E::HOUR.gte(first)).filter(E::HOUR.lt(end)).limit(PAGE);
            for column in E::key_columns() {
                page = page.order_by_asc(column);
            }
            if let Some(key) = last {
                page = page.filter(after(E::key_columns(), key));
            }
            let page = page.all(transaction).await?;
            last = page.last().map(E::key);
            for row in &page {
                let (hour, name) = (E::hour(row), E::name(row));
                let sum = expected.remove(&(hour, name.clone()));
                self.compare(name, &E::counts(row).folded(), sum.map(|sum| sum.folded()), show_counts);
            }
            if last.is_none() {
                break;
            }
        }
        // A request may add nothing to a sum, but an event always adds a row.
        for ((_, name), counts) in expected {
            self.miss(name, show_counts(&counts.folded()));
        }
        Ok(())
    }

    fn differ(&mut self, sum: String, stored: String, expected: String) {
        if self.0.differences.len() < DIFFERENCES {
            self.0.differences.push(Difference { sum, stored, expected });
        }
    }
}

pub(super) fn show_money(sum: &PicoUsdSum) -> String {
    format!("{sum} USD")
}

fn show_counts((counts, cost): &([i64; 5], PicoUsdSum)) -> String {
    let [requests, successful, cancelled, input, output] = counts;
    format!(
        "{requests} requests, {successful} successful, {cancelled} cancelled, {input} input tokens, {output} output tokens, {}",
        show_money(cost)
    )
}
