//! Money as it is stored: whole micro-USD, and beside them the rest in pico-USD.
//!
//! Neither database has a 128-bit integer, and 64 bits of pico-USD overflow at $9.2 million.

use ai4free_ports::money::{PICO_PER_MICRO, PicoUsd, PicoUsdSum};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limbs {
    pub(crate) micro: i64,
    /// From 0 up to one micro-USD; of sums any number, they are added up without carry.
    pub(crate) rest: i64,
}

impl Limbs {
    /// An amount beyond the columns' range, $9.2e12, is as good as that.
    pub(crate) fn of(sum: PicoUsdSum) -> Self {
        let pico = i128::from(PICO_PER_MICRO);
        match (i64::try_from(sum.0.div_euclid(pico)), i64::try_from(sum.0.rem_euclid(pico))) {
            (Ok(micro), Ok(rest)) => Self { micro, rest },
            _ if sum.0 < 0 => Self { micro: i64::MIN, rest: 0 },
            _ => Self { micro: i64::MAX, rest: 0 },
        }
    }

    pub(crate) fn of_cost(cost: PicoUsd) -> Self {
        Self { micro: cost.0.div_euclid(PICO_PER_MICRO), rest: cost.0.rem_euclid(PICO_PER_MICRO) }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.micro = self.micro.saturating_add(other.micro);
        self.rest = self.rest.saturating_add(other.rest);
    }

    pub(crate) fn sum(self) -> PicoUsdSum {
        PicoUsdSum::from_limbs(self.micro, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limbs_are_exact_also_below_zero() {
        for pico in [0, 1, -1, 999_999, 1_000_000, -1_000_001, i64::MAX, i64::MIN] {
            assert_eq!(Limbs::of_cost(PicoUsd(pico)).sum(), PicoUsdSum(pico.into()));
            assert_eq!(Limbs::of(PicoUsdSum(pico.into())), Limbs::of_cost(PicoUsd(pico)));
        }
    }

    #[test]
    fn an_amount_beyond_the_columns_is_the_largest_there_is() {
        assert_eq!(Limbs::of(PicoUsdSum(i128::MAX)).micro, i64::MAX);
        assert_eq!(Limbs::of(PicoUsdSum(i128::MIN)).micro, i64::MIN);
    }
}
