//! Every figure of every round.

use serde_json::{Value, json};

use super::{Goal, MEASURES, Measure};

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    /// Measured beside it, in the same round.
    pub(crate) base: Option<f64>,
}

#[derive(Default)]
pub(crate) struct Sheet {
    figures: Vec<(&'static str, Figure)>,
    /// What could not be measured, and why.
    pub(super) skipped: Vec<String>,
    /// Figures without a goal: what, and how much.
    asides: Vec<(String, f64)>,
}

impl Figure {
    pub(crate) fn alone(value: f64) -> Self {
        Self { value, base: None }
    }

    pub(crate) fn beside(base: f64, value: f64) -> Self {
        Self { value, base: Some(base) }
    }

    /// What the goal is about: a quotient, a difference, or the value itself.
    pub(crate) fn against(self, goal: Goal) -> f64 {
        match (goal, self.base) {
            (Goal::Times(_), Some(base)) => self.value / base,
            (Goal::Over(_), Some(base)) => self.value - base,
            _ => self.value,
        }
    }
}

impl Goal {
    pub(crate) fn is_met(self, reached: f64) -> bool {
        match self {
            Self::Times(most) | Self::Over(most) | Self::AtMost(most) => reached <= most,
            Self::AtLeast(least) => reached >= least,
        }
    }

    /// The better of two.
    fn better(self, one: f64, other: f64) -> f64 {
        if matches!(self, Self::AtLeast(_)) { one.max(other) } else { one.min(other) }
    }
}

impl Sheet {
    pub(crate) fn record(&mut self, measure: &'static Measure, figure: Figure) {
        let against =
            if figure.base.is_some() { format!(" ({:.2})", figure.against(measure.goal)) } else { String::new() };
        eprintln!("  {:28} {}{against}", measure.id, measure.unit.show(figure.value));
        self.figures.push((measure.id, figure));
    }

    pub(crate) fn skip(&mut self, what: &str) {
        if self.skipped.iter().all(|skipped| skipped != what) {
            eprintln!("  skipped: {what}");
            self.skipped.push(what.to_owned());
        }
    }

    pub(crate) fn aside(&mut self, what: &str, value: f64) {
        eprintln!("  {what:28} {value:.1}");
        self.asides.push((what.to_owned(), value));
    }

    pub(crate) fn of(&self, measure: &Measure) -> Vec<Figure> {
        self.figures.iter().filter(|(id, _)| *id == measure.id).map(|(_, figure)| *figure).collect()
    }

    pub(crate) fn to_json(&self) -> Value {
        let measures = MEASURES.iter().map(|measure| {
            let figures = self.of(measure);
            json!({
                "id": measure.id,
                "title": measure.title,
                "values": figures.iter().map(|figure| figure.value).collect::<Vec<_>>(),
                "bases": figures.iter().filter_map(|figure| figure.base).collect::<Vec<_>>(),
                "median": median(figures.iter().map(|figure| figure.against(measure.goal))),
                "is_met": median(figures.iter().map(|figure| figure.against(measure.goal))).map(|reached| measure.goal.is_met(reached)),
            })
        });
        json!({"measures": measures.collect::<Vec<_>>(), "asides": self.asides, "skipped": self.skipped})
    }
}

/// `None`: of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*upper, *lower))
}

pub(crate) fn best(goal: Goal, values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(|one, other| goal.better(one, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::CPU_PATH;

    #[test]
    fn the_median_of_quotients_is_of_the_same_rounds() {
        let mut sheet = Sheet::default();
        // A machine that is twice as slow in the second round.
        for (base, value) in [(10.0, 15.0), (20.0, 32.0), (10.0, 17.0)] {
            sheet.record(&CPU_PATH, Figure::beside(base, value));
        }
        let quotients = || sheet.of(&CPU_PATH).into_iter().map(|figure| figure.against(CPU_PATH.goal));
        assert_eq!(median(quotients()), Some(1.6));
        assert_eq!(best(CPU_PATH.goal, quotients()), Some(1.5));
        assert!(CPU_PATH.goal.is_met(1.6));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
