use std::time::Duration;

use ai4free_ports::{
    budget::{Epoch, Holder},
    money::PicoUsdSum,
    rate_limiter::{Claim, Claims, Held, LeaseId, LimitKind, NeededGrant, Reservation, Standing},
    runtime::Timestamp,
};

use fred::types::Value;

use crate::{
    keys::{self, Keys},
    money,
    script::Arguments,
    stored_event,
    unavailable::Unavailable,
};

/// Limits and amounts above this count as this: sums of them are exact in Lua's numbers.
const LARGEST: u64 = 1 << 48;

/// A call of the operation R, or T. `epoch`: out of whose grants money is held.
pub(crate) fn arguments(keys: &Keys, epoch: Option<Epoch>, lease: LeaseId, claims: &Claims) -> Arguments {
    let is_top_up = claims.money.iter().any(|claim| claim.is_top_up);
    let mut arguments = keys.arguments(if is_top_up { "T" } else { "R" });
    arguments.values.extend([keys::lease(lease).into(), count(claims.counts.len()).into()]);
    for claim in &claims.counts {
        let Claim { kind, limit, amount, .. } = *claim;
        arguments.keys.push(keys.claim(claim));
        let (kind, amount) = match kind {
            LimitKind::Concurrency => ("c", 1),
            LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => ("w", countable(amount)),
        };
        arguments.values.extend([Value::from_static_str(kind), countable(limit).into(), amount.into()]);
    }
    if let Some(epoch) = epoch {
        claims.money.iter().for_each(|claim| money::push_claim(&mut arguments, keys, epoch, claim));
        if let Some(hold) = claims.hold(lease, Holder::Shared(epoch)) {
            arguments.values.push(stored_event::encode(&[hold]).into());
        }
    }
    arguments
}

/// The reply of the operation R, as `limiter.lua` describes it.
pub(crate) fn understand(reply: &[i64], claims: &Claims, epoch: Option<Epoch>) -> Result<Reservation, Unavailable> {
    let holder = epoch.map(Holder::Shared);
    match reply {
        [0, standings @ ..] => {
            let (counts, money) = standings.split_at_checked(2 * claims.counts.len()).ok_or(Unavailable::Reply)?;
            if money.len() != money::STANDING * claims.money.len() {
                return Err(Unavailable::Reply);
            }
            Ok(Reservation::Held(Held {
                counts: counts.chunks(2).map(standing).collect::<Result<_, _>>()?,
                money: money.chunks(money::STANDING).map(money::standing).collect::<Result<_, _>>()?,
                holder,
                is_degraded: false,
            }))
        }
        [1, claim, settled, reserved, remaining, reset, retry_after] => Ok(Reservation::Refused {
            claim: index(*claim)?,
            settled: positive(*settled)?,
            reserved: positive(*reserved)?,
            standing: standing(&[*remaining, *reset])?,
            retry_after: Duration::from_millis(positive(*retry_after)?),
        }),
        [2] => Err(Unavailable::Voided),
        [3, claim, standing @ ..] => {
            Ok(Reservation::Exhausted { claim: index(*claim)?, standing: money::standing(standing)? })
        }
        [4, needed @ ..] if !needed.is_empty() => Ok(Reservation::NeedsGrants {
            holder: holder.ok_or(Unavailable::Reply)?,
            needed: needed.chunks(3).map(needed_grant).collect::<Result<_, _>>()?,
        }),
        [5, now] => Ok(Reservation::WrongWindow { now: Timestamp(now.saturating_mul(1_000)) }),
        _ => Err(Unavailable::Reply),
    }
}

/// As the script counts.
pub(crate) fn countable(amount: u64) -> i64 {
    i64::try_from(amount.min(LARGEST)).unwrap_or(i64::MAX)
}

pub(crate) fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

fn standing(numbers: &[i64]) -> Result<Standing, Unavailable> {
    match numbers {
        [remaining, reset] => {
            Ok(Standing { remaining: positive(*remaining)?, reset: Duration::from_millis(positive(*reset)?) })
        }
        _ => Err(Unavailable::Reply),
    }
}

fn needed_grant(numbers: &[i64]) -> Result<NeededGrant, Unavailable> {
    match numbers {
        [claim, -1, _] => Ok(NeededGrant { claim: index(*claim)?, granted: None }),
        [claim, micro, rest] => {
            Ok(NeededGrant { claim: index(*claim)?, granted: Some(PicoUsdSum::from_limbs(*micro, *rest)) })
        }
        _ => Err(Unavailable::Reply),
    }
}

fn index(number: i64) -> Result<usize, Unavailable> {
    usize::try_from(number).map_err(|_| Unavailable::Reply)
}

fn positive(number: i64) -> Result<u64, Unavailable> {
    u64::try_from(number).map_err(|_| Unavailable::Reply)
}
