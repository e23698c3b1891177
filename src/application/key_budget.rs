//! The budget of a key: what is said of it, and what is changed.

use ai4free_ports::{
    budget::{Budget, BudgetPeriod},
    error::RequestError,
    limits::OutagePolicy,
    money::PicoUsdSum,
    runtime::Calendar,
};

/// What is said of a key's budget. `None` leaves a member as it is, and at its default in a new budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetPatch {
    pub amount: Option<PicoUsdSum>,
    pub period: Option<BudgetPeriod>,
    pub time_zone: Option<String>,
}

impl BudgetPatch {
    /// These members over a budget that there is, or as a new one. What was spent stays spent: a budget is what its scope may
    /// spend in a window, not an account that is filled up.
    ///
    /// # Errors
    /// For a new budget without an amount, and a time zone that does not exist.
    pub fn over(&self, budget: Option<&Budget>, calendar: &dyn Calendar) -> Result<Budget, RequestError> {
        let Some(amount) = self.amount.or(budget.map(|budget| budget.amount)) else {
            return Err(RequestError::new("'budget.amount_usd' is missing.")
                .param("budget.amount_usd")
                .code("invalid_value"));
        };
        let time_zone = match (&self.time_zone, budget) {
            (Some(time_zone), _) => time_zone.as_str().into(),
            (None, Some(budget)) => budget.time_zone.clone(),
            (None, None) => Budget::DEFAULT_TIME_ZONE.into(),
        };
        if !calendar.knows(&time_zone) {
            let message = "'budget.time_zone' must be a name of the IANA time zone database, like 'Europe/Berlin'.";
            return Err(RequestError::new(message).param("budget.time_zone").code("invalid_value"));
        }
        Ok(Budget {
            amount,
            period: self.period.or(budget.map(|budget| budget.period)).unwrap_or_default(),
            time_zone,
            on_redis_down: budget.map_or_else(OutagePolicy::default, |budget| budget.on_redis_down),
        })
    }
}

#[cfg(test)]
mod tests {
    use ai4free_ports::{budget::MoneyWindow, runtime::Timestamp};

    use super::*;

    struct UtcAndBerlin;

    impl Calendar for UtcAndBerlin {
        fn window(&self, _: BudgetPeriod, time_zone: &str, _: Timestamp) -> Option<MoneyWindow> {
            ["UTC", "Europe/Berlin"].contains(&time_zone).then_some(MoneyWindow::TOTAL)
        }
    }

    fn patch(amount: Option<i128>, period: Option<BudgetPeriod>, time_zone: Option<&str>) -> BudgetPatch {
        BudgetPatch { amount: amount.map(PicoUsdSum), period, time_zone: time_zone.map(str::to_owned) }
    }

    #[test]
    fn a_new_budget_needs_an_amount_and_nothing_else() {
        let budget = patch(Some(5), None, None).over(None, &UtcAndBerlin).unwrap();
        assert_eq!((budget.amount, budget.period, &*budget.time_zone), (PicoUsdSum(5), BudgetPeriod::Total, "UTC"));
        let missing = patch(None, Some(BudgetPeriod::Day), None).over(None, &UtcAndBerlin).unwrap_err();
        assert_eq!(missing.param.as_deref(), Some("budget.amount_usd"));
    }

    #[test]
    fn a_change_of_one_member_leaves_the_others() {
        let budget = Budget {
            amount: PicoUsdSum(5),
            period: BudgetPeriod::Week,
            time_zone: "Europe/Berlin".into(),
            on_redis_down: OutagePolicy::Closed,
        };
        let over = |patch: BudgetPatch| patch.over(Some(&budget), &UtcAndBerlin).unwrap();
        assert_eq!(over(BudgetPatch::default()), budget);
        assert_eq!(over(patch(Some(7), None, None)), Budget { amount: PicoUsdSum(7), ..budget.clone() });
        assert_eq!(
            over(patch(None, Some(BudgetPeriod::Day), None)),
            Budget { period: BudgetPeriod::Day, ..budget.clone() }
        );
        assert_eq!(over(patch(None, None, Some("UTC"))), Budget { time_zone: "UTC".into(), ..budget.clone() });
    }

    #[test]
    fn a_time_zone_that_does_not_exist_is_named() {
        let refused = patch(Some(5), None, Some("Mars/Olympus")).over(None, &UtcAndBerlin).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("budget.time_zone"));
    }
}
