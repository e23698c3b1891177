//! What events add to the sums: by the hour for keys, users and providers, and to the budgets that they are charged to.

use std::collections::{BTreeMap, HashMap};

use ai4free_ports::{
    budget::Spending,
    money::{PicoUsd, PicoUsdSum},
    usage_ledger::{EventKind, Outcome},
};
use sea_orm::{EntityTrait, entity::prelude::Uuid};

use crate::{
    entity::{budget_window, usage_event, usage_hour, usage_provider_hour, usage_user_hour},
    event_row::Code,
    failure::Failure,
    limbs::Limbs,
    spending,
};

/// The columns that all sums by the hour have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: i64,
    pub(crate) successful: i64,
    pub(crate) cancelled: i64,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) cost: Limbs,
}

impl Counts {
    /// Of one event, and of the request that it stands for, if it is the last attempt.
    fn of(row: &usage_event::Model, is_last: bool) -> Self {
        // Counts have no sign of their own. The cost of a release has.
        let sign = if row.kind == EventKind::Release.code() { -1 } else { 1 };
        Self {
            requests: i64::from(is_last),
            successful: i64::from(is_last && row.outcome == Outcome::Success.code()),
            cancelled: i64::from(is_last && row.outcome == Outcome::Cancelled.code()),
            input_tokens: sign
                * (row.input_tokens + row.cache_read_tokens + row.cache_write_tokens + row.audio_input_tokens),
            output_tokens: sign * (row.output_tokens + row.reasoning_tokens + row.audio_output_tokens),
            cost: Limbs::of_cost(PicoUsd(row.cost_pico)),
        }
    }

    /// Comparable: limbs can be the same sum in many ways.
    pub(crate) fn folded(&self) -> ([i64; 5], PicoUsdSum) {
        let Self { requests, successful, cancelled, input_tokens, output_tokens, cost } = *self;
        ([requests, successful, cancelled, input_tokens, output_tokens], cost.sum())
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.successful += other.successful;
        self.cancelled += other.cancelled;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cost.add(other.cost);
    }
}

/// The attempt that stands for each request: the last that was charged. A request is counted with it, and with its outcome;
/// tokens and money come from every row. All charges of a request are in one batch, as the port demands.
pub(crate) struct LastAttempts(HashMap<Uuid, i32>);

impl LastAttempts {
    pub(crate) fn of(rows: &[usage_event::Model]) -> Self {
        let mut last = HashMap::new();
        for row in rows.iter().filter(|row| row.kind == EventKind::Charge.code()) {
            let known = last.entry(row.request_id).or_insert(row.attempt);
            *known = Ord::max(*known, row.attempt);
        }
        Self(last)
    }

    fn is_last(&self, row: &usage_event::Model) -> bool {
        row.kind == EventKind::Charge.code() && self.0.get(&row.request_id) == Some(&row.attempt)
    }
}

/// Each sorted by key: writers that lock rows in one order can't deadlock.
#[derive(Default)]
pub(crate) struct Sums {
    pub(crate) keys: Vec<usage_hour::Model>,
    pub(crate) users: Vec<usage_user_hour::Model>,
    pub(crate) providers: Vec<usage_provider_hour::Model>,
    pub(crate) budgets: Vec<budget_window::Model>,
}

impl Sums {
    pub(crate) fn of<'a>(
        rows: impl IntoIterator<Item = &'a usage_event::Model>,
        last_attempts: &LastAttempts,
    ) -> Result<Self, Failure> {
        let mut keys = BTreeMap::<_, Counts>::new();
        let mut users = BTreeMap::<_, Counts>::new();
        let mut providers = BTreeMap::<_, Counts>::new();
        // By the column that names the budgets, and only then by budget: few columns differ.
        let mut spent = BTreeMap::<_, Limbs>::new();
        for row in rows {
            let counts = Counts::of(row, last_attempts.is_last(row));
            let (hour, model) = (hour_of(row.admitted_at), row.model.as_str());
            let user = row.user_id.as_deref().unwrap_or_default();
            let provider = row.provider.as_deref().unwrap_or_default();
            let credential = row.credential.as_deref().unwrap_or_default();
            keys.entry((row.key_id.as_str(), hour, model)).or_default().add(&counts);
            users.entry((user, hour, model)).or_default().add(&counts);
            providers.entry((hour, provider, credential, model)).or_default().add(&counts);
            spent.entry(row.spending.as_str()).or_default().add(counts.cost);
        }
        let mut budgets = BTreeMap::<_, Limbs>::new();
        for (column, cost) in spent {
            for Spending { scope, window, holder } in spending::parse(column)? {
                budgets.entry((scope.to_text(), window.0, holder.to_string())).or_default().add(cost);
            }
        }
        let keys = keys.into_iter().map(|((key, hour, model), counts)| usage_hour::Model {
            key_id: key.to_owned(),
            hour,
            model: model.to_owned(),
            ..counts.into()
        });
        let users = users.into_iter().map(|((user, hour, model), counts)| usage_user_hour::Model {
            user_id: user.to_owned(),
            hour,
            model: model.to_owned(),
            ..counts.into()
        });
        let providers =
            providers.into_iter().map(|((hour, provider, credential, model), counts)| usage_provider_hour::Model {
                hour,
                provider: provider.to_owned(),
                credential: credential.to_owned(),
                model: model.to_owned(),
                ..counts.into()
            });
        let budgets = budgets.into_iter().map(|((scope, win, holder), settled)| budget_window::Model {
            scope,
            win,
            holder,
            granted_micro: 0,
            granted_rest: 0,
            settled_micro: settled.micro,
            settled_rest: settled.rest,
            closed: false,
            win_end: None,
        });
        Ok(Self {
            keys: keys.collect(),
            users: users.collect(),
            providers: providers.collect(),
            budgets: budgets.collect(),
        })
    }
}

/// A table of sums by the hour.
pub(crate) trait HourlySums: EntityTrait {
    const HOUR: Self::Column;
    fn key_columns() -> Vec<Self::Column>;
    /// In the order of [`counts`](Self::counts).
    fn count_columns() -> [Self::Column; 7];
    fn hour(row: &Self::Model) -> i64;
    /// In the order of [`key_columns`](Self::key_columns).
    fn key(row: &Self::Model) -> Vec<sea_orm::Value>;
    /// Table and key, for people.
    fn name(row: &Self::Model) -> String;
    fn counts(row: &Self::Model) -> Counts;
}

macro_rules! hourly_sums {
    ($entity:ident: $($column:ident $field:ident),+) => {
        impl HourlySums for $entity::Entity {
            const HOUR: $entity::Column = $entity::Column::Hour;

            fn key_columns() -> Vec<$entity::Column> {
                vec![$($entity::Column::$column),+]
            }

            fn count_columns() -> [$entity::Column; 7] {
                use $entity::Column::{CostMicro, CostRest, InputTokens, OutputTokens, Requests, Successful, Cancelled};
                [Requests, Successful, Cancelled, InputTokens, OutputTokens, CostMicro, CostRest]
            }

            fn hour(row: &$entity::Model) -> i64 {
                row.hour
            }

            fn key(row: &$entity::Model) -> Vec<sea_orm::Value> {
                vec![$(row.$field.clone().into()),+]
            }

            fn name(row: &$entity::Model) -> String {
                [stringify!($entity).to_owned(), $(format!(" {}={:?}", stringify!($field), row.$field)),+].concat()
            }

            fn counts(row: &$entity::Model) -> Counts {
                Counts {
                    requests: row.requests,
                    successful: row.successful,
                    cancelled: row.cancelled,
                    input_tokens: row.input_tokens,
                    output_tokens: row.output_tokens,
                    cost: Limbs { micro: row.cost_micro, rest: row.cost_rest },
                }
            }
        }

        /// Without its key.
        impl From<Counts> for $entity::Model {
            fn from(counts: Counts) -> Self {
                Self {
                    $($field: Default::default(),)+
                    requests: counts.requests,
                    successful: counts.successful,
                    cancelled: counts.cancelled,
                    input_tokens: counts.input_tokens,
                    output_tokens: counts.output_tokens,
                    cost_micro: counts.cost.micro,
                    cost_rest: counts.cost.rest,
                }
            }
        }
    };
}

hourly_sums!(usage_hour: KeyId key_id, Hour hour, Model model);
hourly_sums!(usage_user_hour: UserId user_id, Hour hour, Model model);
hourly_sums!(usage_provider_hour: Hour hour, Provider provider, Credential credential, Model model);

/// Hours since the epoch, of microseconds since the epoch.
pub(crate) fn hour_of(micros: i64) -> i64 {
    micros.div_euclid(MICROS_PER_HOUR)
}

pub(crate) const MICROS_PER_HOUR: i64 = 3_600_000_000;
