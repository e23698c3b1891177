use ai4free_ports::{
    budget::{Epoch, Grant, GrantStanding, MoneyWindow},
    money::{PICO_PER_MICRO, PicoUsdSum},
    rate_limiter::{MoneyClaim, SettledMoney},
};
use fred::types::Value;

use crate::{keys::Keys, script::Arguments, unavailable::Unavailable};

/// 9e9 USD. Lua's numbers are exact a little further, so that sums may exceed it.
const LARGEST_MICRO: i64 = 9_000_000_000_000_000;
/// How many numbers a standing is in a reply.
pub(crate) const STANDING: usize = 10;

/// What `money.lua` reads of a budget to tell how it stands, in the same order.
pub(crate) const STANDING_FIELDS: [&str; STANDING] = ["gh", "gl", "uh", "ul", "rh", "rl", "bh", "bl", "eh", "el"];

/// Whole micro-USD, and the rest in pico-USD.
pub(crate) fn limbs(amount: PicoUsdSum) -> [i64; 2] {
    let micro = amount.0.div_euclid(i128::from(PICO_PER_MICRO));
    let rest = amount.0.rem_euclid(i128::from(PICO_PER_MICRO));
    match (i64::try_from(micro), i64::try_from(rest)) {
        (Ok(micro), Ok(rest)) if micro.abs() < LARGEST_MICRO => [micro, rest],
        _ => [if amount.0 < 0 { -LARGEST_MICRO } else { LARGEST_MICRO }, 0],
    }
}

/// A claim, as the operation R takes it.
pub(crate) fn push_claim(arguments: &mut Arguments, keys: &Keys, epoch: Epoch, claim: &MoneyClaim) {
    arguments.keys.push(keys.budget(epoch, &claim.scope, &claim.window));
    let window = if claim.is_top_up { MoneyWindow::TOTAL } else { claim.window };
    push(&mut arguments.values, limbs(claim.limit));
    push(&mut arguments.values, limbs(PicoUsdSum(claim.amount.0.into())));
    push(&mut arguments.values, [millis(window.start.0), millis(window.end.0)]);
}

/// A settled claim, as the operation S takes it.
pub(crate) fn push_settled(arguments: &mut Arguments, keys: &Keys, epoch: Epoch, settled: &SettledMoney) {
    let SettledMoney { claim, actual } = settled;
    arguments.keys.push(keys.budget(epoch, &claim.scope, &claim.window));
    push(&mut arguments.values, limbs(PicoUsdSum(claim.amount.0.into())));
    push(&mut arguments.values, limbs(PicoUsdSum(actual.0.into())));
}

/// A call of the operation G.
pub(crate) fn grant(keys: &Keys, epoch: Epoch, grant: &Grant) -> Arguments {
    let mut arguments = keys.arguments("G");
    arguments.keys.push(keys.budget(epoch, &grant.scope, &grant.window));
    push(&mut arguments.values, [epoch.0]);
    push(&mut arguments.values, limbs(grant.granted));
    push(&mut arguments.values, limbs(grant.elsewhere));
    push(&mut arguments.values, limbs(grant.settled_elsewhere));
    let is_final = if grant.is_final { "1" } else { "0" };
    let end: Value = if grant.window == MoneyWindow::TOTAL { "".into() } else { millis(grant.window.end.0).into() };
    arguments.values.extend([is_final.into(), end]);
    arguments
}

/// [`STANDING_FIELDS`] of a budget. `None`: nothing was granted there.
pub(crate) fn stored_standing(fields: &[Option<i64>]) -> Result<Option<GrantStanding>, Unavailable> {
    if fields.iter().all(Option::is_none) {
        return Ok(None);
    }
    let numbers: Vec<i64> = fields.iter().map(|field| field.unwrap_or(0)).collect();
    standing(&numbers).map(Some)
}

/// A standing, in the order of [`STANDING_FIELDS`].
pub(crate) fn standing(numbers: &[i64]) -> Result<GrantStanding, Unavailable> {
    let amounts: Vec<PicoUsdSum> = numbers
        .chunks(2)
        .filter_map(|limbs| if let &[micro, rest] = limbs { Some(PicoUsdSum::from_limbs(micro, rest)) } else { None })
        .collect();
    let &[granted, used, reserved, elsewhere, settled_elsewhere] = amounts.as_slice() else {
        return Err(Unavailable::Reply);
    };
    // An earlier release that runs beside this one raises grants and does not know the last.
    let settled_elsewhere = settled_elsewhere.min(elsewhere);
    Ok(GrantStanding { granted, settled: PicoUsdSum(used.0 - reserved.0), reserved, elsewhere, settled_elsewhere })
}

fn push<const N: usize>(values: &mut Vec<Value>, numbers: [i64; N]) {
    values.extend(numbers.map(Value::from));
}

/// Of microseconds. Windows begin and end with a second.
fn millis(micros: i64) -> i64 {
    micros.div_euclid(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limbs_are_exact_and_end_where_numbers_of_lua_do() {
        for pico in [0, 1, 999_999, 1_000_000, 8_999_999_999_999_999_999_999, -1, -1_000_001] {
            let [micro, rest] = limbs(PicoUsdSum(pico));
            assert_eq!(PicoUsdSum::from_limbs(micro, rest), PicoUsdSum(pico));
            assert!((0..PICO_PER_MICRO).contains(&rest), "{pico}");
        }
        assert_eq!(limbs(PicoUsdSum(i128::MAX)), [LARGEST_MICRO, 0]);
        assert_eq!(limbs(PicoUsdSum(i128::MIN)), [-LARGEST_MICRO, 0]);
    }
}
