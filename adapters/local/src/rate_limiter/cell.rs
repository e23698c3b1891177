//! What one scope uses, of every kind.

use ai4free_ports::rate_limiter::{Claim, LimitKind};

use super::{budgets::Budgets, window::Window};

/// Boxed windows: most scopes limit one or two kinds, and a window is a kilobyte.
#[derive(Default)]
pub(super) struct Cell {
    requests: Option<Box<Window>>,
    image_requests: Option<Box<Window>>,
    tokens: Option<Box<Window>>,
    in_flight: u64,
    pub(super) budgets: Budgets,
}

impl Cell {
    /// Brings the window of `kind` up to `second`. Everything else reads the window as of the last roll.
    pub(super) fn roll(&mut self, kind: LimitKind, second: u64) {
        if let Some(window) = self.window_mut(kind) {
            window.get_or_insert_with(|| Box::new(Window::starting(second))).roll(second);
        }
    }

    pub(super) fn fits(&self, claim: &Claim) -> bool {
        u128::from(self.used(claim.kind)) + u128::from(amount(claim)) <= u128::from(claim.limit)
    }

    pub(super) fn remaining(&self, claim: &Claim) -> u64 {
        claim.limit.saturating_sub(self.used(claim.kind))
    }

    /// What counts against the limit: what is settled of it, and what is reserved.
    pub(super) fn parts(&self, kind: LimitKind) -> (u64, u64) {
        match kind {
            LimitKind::Concurrency => (0, self.in_flight),
            LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => {
                self.window(kind).map_or((0, 0), Window::parts)
            }
        }
    }

    /// The second from which a rate claim fits if nothing more is used.
    pub(super) fn fits_at(&self, claim: &Claim) -> u64 {
        self.window(claim.kind).map_or(0, |window| window.fits_at(claim.limit, claim.amount))
    }

    /// The second from which the limit is whole again if nothing more is used; 0 where that can't be known.
    pub(super) fn whole_at(&self, kind: LimitKind) -> u64 {
        self.window(kind).map_or(0, Window::whole_at)
    }

    pub(super) fn reserve(&mut self, kind: LimitKind, amount: u64) {
        match self.window_mut(kind) {
            Some(window) => window.iter_mut().for_each(|window| window.reserve(amount)),
            None => self.in_flight += 1,
        }
    }

    /// Replaces what was reserved in `second` by what was used.
    pub(super) fn settle(&mut self, kind: LimitKind, second: u64, reserved: u64, actual: u64) {
        match self.window_mut(kind) {
            Some(window) => window.iter_mut().for_each(|window| window.settle(second, reserved, actual)),
            None => self.in_flight = self.in_flight.saturating_sub(1),
        }
    }

    /// Whether a new cell would answer the same.
    pub(super) fn is_idle(&self, second: u64) -> bool {
        let windows = [&self.requests, &self.image_requests, &self.tokens];
        self.in_flight == 0
            && self.budgets.is_empty()
            && windows.into_iter().flatten().all(|window| window.is_over(second))
    }

    fn used(&self, kind: LimitKind) -> u64 {
        match kind {
            LimitKind::Concurrency => self.in_flight,
            LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => {
                self.window(kind).map_or(0, Window::sum)
            }
        }
    }

    fn window(&self, kind: LimitKind) -> Option<&Window> {
        match kind {
            LimitKind::Requests => self.requests.as_deref(),
            LimitKind::ImageRequests => self.image_requests.as_deref(),
            LimitKind::Tokens => self.tokens.as_deref(),
            LimitKind::Concurrency => None,
        }
    }

    /// `None`: this kind is not a rate.
    fn window_mut(&mut self, kind: LimitKind) -> Option<&mut Option<Box<Window>>> {
        match kind {
            LimitKind::Requests => Some(&mut self.requests),
            LimitKind::ImageRequests => Some(&mut self.image_requests),
            LimitKind::Tokens => Some(&mut self.tokens),
            LimitKind::Concurrency => None,
        }
    }
}

/// A request in flight counts once, whatever the claim says.
fn amount(claim: &Claim) -> u64 {
    match claim.kind {
        LimitKind::Concurrency => 1,
        LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => claim.amount,
    }
}
