//! Compares the sums with the events that they are said to be the sums of.
//!
//! Events are read once, in pages, in the order of their ids. What they add up to is kept until the reading is past all that
//! can belong to it, then compared with what is stored, and forgotten: in memory are the sums of a week, and of the budgets
//! whose windows have not ended.
//!
//! Of budgets, those windows are compared that begin and end between the two days; if there are no events after the last day,
//! also those that have not ended. What was spent before a window's first grant (holder `0`) is taken as it is. Events that
//! have expired can't be compared with anything: the first day is never before the one since which all are kept.

mod findings;
mod pages;

use std::collections::BTreeMap;

use ai4free_ports::{money::PicoUsdSum, runtime::Timestamp, usage_ledger::Verification};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use self::{
    findings::{Findings, PAGE, show_money},
    pages::Pages,
};
use crate::{
    database::Database,
    entity::{budget_window, usage_event, usage_hour, usage_provider_hour, usage_retention, usage_user_hour},
    event_span::{ADMISSION, MICROS_PER_DAY, arrived_at},
    failure::Failure,
    grants::BEFORE,
    keyset::after,
    limbs::Limbs,
    rollup::{Counts, HourlySums, LastAttempts, Sums, hour_of},
};

/// Each of these steps reads the tables of sums once.
const STEP: i64 = 7 * MICROS_PER_DAY;

pub(crate) async fn verify(database: &Database, from: Timestamp, to: Timestamp) -> Result<Verification, Failure> {
    let transaction = database.begin_snapshot().await?;
    let kept = usage_retention::Entity::find().one(&transaction).await?;
    let first_kept = kept.map_or(0, |row| i64::from(row.first_day).saturating_mul(MICROS_PER_DAY));
    let midnight = |micros: i64| micros.div_euclid(MICROS_PER_DAY).saturating_mul(MICROS_PER_DAY);
    let from = midnight(Ord::max(from.0, first_kept));
    let to = midnight(to.0.saturating_sub(1)).saturating_add(MICROS_PER_DAY);
    if from >= to {
        return Ok(Verification::default());
    }
    let mut audit = Audit::new(from, to);
    let mut pages = Pages::new(&transaction, from, to);
    while let Some(rows) = pages.next().await? {
        // Of all that is still to come, nothing was admitted before this.
        let reached = rows.first().map_or(from, |row| arrived_at(row.request_id)).saturating_sub(ADMISSION);
        let ended = from + (reached - from).div_euclid(STEP) * STEP;
        if ended > audit.compared {
            audit.compare(&transaction, Ord::min(ended, to), false).await?;
        }
        audit.add(&rows)?;
    }
    let is_the_end = !pages.is_more_to_come().await?;
    audit.compare(&transaction, to, is_the_end).await?;
    transaction.rollback().await?;
    Ok(audit.findings.0)
}

/// What the events that were read add up to, as far as it was not compared yet.
struct Audit {
    from: i64,
    to: i64,
    /// Everything before is done.
    compared: i64,
    keys: BTreeMap<(i64, String), Counts>,
    users: BTreeMap<(i64, String), Counts>,
    providers: BTreeMap<(i64, String), Counts>,
    /// By scope and start of the window, then by holder.
    budgets: BTreeMap<(String, i64), BTreeMap<String, Limbs>>,
    findings: Findings,
}

impl Audit {
    fn new(from: i64, to: i64) -> Self {
        Self {
            from,
            to,
            compared: from,
            keys: BTreeMap::new(),
            users: BTreeMap::new(),
            providers: BTreeMap::new(),
            budgets: BTreeMap::new(),
            findings: Findings::default(),
        }
    }

    /// All rows of some requests.
    fn add(&mut self, rows: &[usage_event::Model]) -> Result<(), Failure> {
        let times = self.from..self.to;
        let counted = rows.iter().filter(|row| times.contains(&row.admitted_at));
        self.findings.0.events += counted.count() as u64;
        let hours = hour_of(self.from)..hour_of(self.to);
        let sums = Sums::of(rows, &LastAttempts::of(rows))?;
        add_hours::<usage_hour::Entity>(&mut self.keys, &sums.keys, &hours);
        add_hours::<usage_user_hour::Entity>(&mut self.users, &sums.users, &hours);
        add_hours::<usage_provider_hour::Entity>(&mut self.providers, &sums.providers, &hours);
        for row in sums.budgets.into_iter().filter(|row| row.win >= self.from) {
            let window = self.budgets.entry((row.scope, row.win)).or_default();
            window.entry(row.holder).or_default().add(Limbs { micro: row.settled_micro, rest: row.settled_rest });
        }
        Ok(())
    }

    /// Everything before `end`; with `is_the_end`, all that there is.
    async fn compare(&mut self, transaction: &DatabaseTransaction, end: i64, is_the_end: bool) -> Result<(), Failure> {
        let hours = (hour_of(self.compared), hour_of(end));
        let findings = &mut self.findings;
        findings.compare_hours::<usage_hour::Entity>(transaction, &mut self.keys, hours).await?;
        findings.compare_hours::<usage_user_hour::Entity>(transaction, &mut self.users, hours).await?;
        findings.compare_hours::<usage_provider_hour::Entity>(transaction, &mut self.providers, hours).await?;
        self.compare_budgets(transaction, end, is_the_end).await?;
        self.compared = end;
        Ok(())
    }

    async fn compare_budgets(
        &mut self,
        transaction: &DatabaseTransaction,
        end: i64,
        is_the_end: bool,
    ) -> Result<(), Failure> {
        use budget_window::Column::{Holder, Scope, Win};
        let compared = self.compared;
        let is_due = |win_end: Option<i64>| {
            win_end.map_or(is_the_end, |win_end| win_end > compared && (is_the_end || win_end <= end))
        };
        let mut window: Vec<budget_window::Model> = Vec::new();
        let mut last: Option<(String, i64, String)> = None;
        loop {
            let mut page = budget_window::Entity::find()
                .filter(Win.gte(self.from))
                .order_by_asc(Scope)
                .order_by_asc(Win)
                .order_by_asc(Holder)
                .limit(PAGE);
            if let Some((scope, win, holder)) = last {
                page = page.filter(after([Scope, Win, Holder], [scope.into(), win.into(), holder.into()]));
            }
            let page = page.all(transaction).await?;
            last = page.last().map(|row| (row.scope.clone(), row.win, row.holder.clone()));
            for row in page {
                if window.first().is_some_and(|first| (&first.scope, first.win) != (&row.scope, row.win)) {
                    self.compare_window(&window, is_due);
                    window.clear();
                }
                window.push(row);
            }
            if last.is_none() {
                break;
            }
        }
        self.compare_window(&window, is_due);
        if is_the_end {
            // Windows of which no row is left.
            for ((scope, win), holders) in std::mem::take(&mut self.budgets) {
                for (holder, sum) in holders {
                    self.findings.miss(name(&scope, win, &holder), show_money(&sum.sum()));
                }
            }
        }
        Ok(())
    }

    /// All rows of one window.
    fn compare_window(&mut self, rows: &[budget_window::Model], is_due: impl Fn(Option<i64>) -> bool) {
        let Some(first) = rows.first() else { return };
        if !is_due(rows.iter().filter_map(|row| row.win_end).max()) {
            return;
        }
        let mut expected = self.budgets.remove(&(first.scope.clone(), first.win)).unwrap_or_default();
        for row in rows.iter().filter(|row| row.holder != BEFORE) {
            let sum = expected.remove(&row.holder).map(Limbs::sum);
            let stored = PicoUsdSum::from_limbs(row.settled_micro, row.settled_rest);
            self.findings.compare(name(&row.scope, row.win, &row.holder), &stored, sum, show_money);
        }
        for (holder, sum) in expected {
            self.findings.miss(name(&first.scope, first.win, &holder), show_money(&sum.sum()));
        }
    }
}

fn add_hours<E: HourlySums>(
    sums: &mut BTreeMap<(i64, String), Counts>,
    rows: &[E::Model],
    hours: &std::ops::Range<i64>,
) {
    for row in rows.iter().filter(|row| hours.contains(&E::hour(row))) {
        sums.entry((E::hour(row), E::name(row))).or_default().add(&E::counts(row));
    }
}

fn name(scope: &str, win: i64, holder: &str) -> String {
    format!("budget_window scope={scope:?} win={win} holder={holder:?}")
}
