//! Money as integers. Nothing that is charged, compared or stored is ever a float.

use std::fmt;

/// An amount of 1e-12 US dollars.
///
/// A price in micro-USD per million tokens times a number of tokens is exactly this unit, so nothing is ever rounded.
/// One event reaches $9.2 million before it overflows; sums use [`PicoUsdSum`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsd(pub i64);

impl PicoUsd {
    pub const ZERO: Self = Self(0);

    /// `None` on overflow: the caller refuses or clamps, it never wraps.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }
}

impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PicoUsdSum(i128::from(self.0)).fmt(f)
    }
}

/// A sum of [`PicoUsd`]. Stored in two limbs (whole micro-USD and the rest in pico-USD) because databases and Lua have no
/// 128-bit integer; limbs are added without carry and folded when read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsdSum(pub i128);

/// Pico-USD in one micro-USD.
pub const PICO_PER_MICRO: i64 = 1_000_000;
const PICO_PER_USD: u128 = 1_000_000_000_000;
/// Decimals of an amount in US dollars.
const DECIMALS: usize = 12;

impl PicoUsdSum {
    /// Folds two limbs back into one number; the rest need not be smaller than one micro-USD.
    #[must_use]
    pub fn from_limbs(micro: i64, rest: i64) -> Self {
        Self(i128::from(micro) * i128::from(PICO_PER_MICRO) + i128::from(rest))
    }

    /// What people write: digits, and after a point up to 12 more; `-` before them. `None`: anything else, or too large.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !fraction.is_none_or(|part| is_number(part) && part.len() <= DECIMALS) {
            return None;
        }
        let rest: i128 = format!("{:0<DECIMALS$}", fraction.unwrap_or_default()).parse().ok()?;
        let pico = whole.parse::<i128>().ok()?.checked_mul(PICO_PER_USD.try_into().ok()?)?.checked_add(rest)?;
        Some(Self(if is_negative { -pico } else { pico }))
    }
}

impl std::ops::AddAssign<PicoUsd> for PicoUsdSum {
    fn add_assign(&mut self, amount: PicoUsd) {
        self.0 += i128::from(amount.0);
    }
}

impl std::ops::AddAssign for PicoUsdSum {
    fn add_assign(&mut self, amount: Self) {
        self.0 += amount.0;
    }
}

/// The shortest exact decimal: `0.00169`, `5`, `-0.5`.
impl fmt::Display for PicoUsdSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0.unsigned_abs() / PICO_PER_USD, self.0.unsigned_abs() % PICO_PER_USD);
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{rest:0DECIMALS$}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_and_shortest() {
        let shown = |pico: i128| PicoUsdSum(pico).to_string();
        assert_eq!(shown(1_690_000_000), "0.00169");
        assert_eq!(shown(5_000_000_000_000), "5");
        assert_eq!(shown(-500_000_000_000), "-0.5");
        assert_eq!(shown(1), "0.000000000001");
        assert_eq!(shown(0), "0");
        assert_eq!(PicoUsd(i64::MAX).to_string(), "9223372.036854775807");
    }

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        for (text, pico) in [
            ("5.00", 5_000_000_000_000),
            ("5", 5_000_000_000_000),
            ("0.0001", 100_000_000),
            ("0.000000000001", 1),
            ("007.5", 7_500_000_000_000),
            ("-0.5", -500_000_000_000),
            ("0", 0),
            ("9000000000", 9_000_000_000 * 1_000_000_000_000),
        ] {
            assert_eq!(PicoUsdSum::parse(text), Some(PicoUsdSum(pico)), "{text}");
            assert_eq!(PicoUsdSum::parse(&PicoUsdSum(pico).to_string()), Some(PicoUsdSum(pico)), "{text}");
        }
        let too_large = "9".repeat(39);
        for text in [
            "",
            "-",
            ".",
            "5.",
            ".5",
            "+5",
            " 5",
            "5 ",
            "1e3",
            "1,5",
            "1_000",
            "$5",
            "5.0000000000001",
            "--5",
            "٥",
            &too_large,
        ] {
            assert_eq!(PicoUsdSum::parse(text), None, "{text}");
        }
    }

    #[test]
    fn limbs_fold_without_loss() {
        assert_eq!(PicoUsdSum::from_limbs(3, 7), PicoUsdSum(3_000_007));
        assert_eq!(PicoUsdSum::from_limbs(i64::MAX, 2_500_000).0, i128::from(i64::MAX) * 1_000_000 + 2_500_000);
    }
}
