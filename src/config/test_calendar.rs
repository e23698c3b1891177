//! A calendar that knows two time zones and no date.

use ai4free_ports::{
    budget::{BudgetPeriod, MoneyWindow},
    runtime::{Calendar, Timestamp},
};

pub(super) struct TwoZones;

impl Calendar for TwoZones {
    fn window(&self, _: BudgetPeriod, time_zone: &str, _: Timestamp) -> Option<MoneyWindow> {
        ["UTC", "Europe/Berlin"].contains(&time_zone).then_some(MoneyWindow::TOTAL)
    }
}
