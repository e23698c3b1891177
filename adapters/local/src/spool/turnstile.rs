//! The lock of a spool. Requests come on reactor threads, and the disk may hold up whoever has the lock: nobody queues behind
//! a disk that is stalled.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{request::RequestId, runtime::Clock};

use super::state::State;

/// A write takes microseconds. Who has waited this long knows that the disk is stalled; who comes then does not wait at all.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);
/// Looks at a lock that is held for some microseconds mostly, before the thread sleeps.
const SPINS: u32 = 200;
const NAP: Duration = Duration::from_micros(200);

pub(super) struct Turnstile {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// Somebody has waited in vain, and nobody has got through since.
    stalled: AtomicBool,
    /// Closes that could not wait.
    waiting: Mutex<Vec<Close>>,
    has_waiting: AtomicBool,
}

/// The end of a request, on its way into the journal.
pub(super) struct Close {
    pub(super) request: RequestId,
    pub(super) frame: Vec<u8>,
    pub(super) count: u64,
}

impl Turnstile {
    pub(super) fn new(state: State, clock: Arc<dyn Clock>) -> Self {
        let (stalled, has_waiting) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { state: Mutex::new(state), clock, stalled, waiting: Mutex::default(), has_waiting }
    }

    /// However long it takes: for threads that may block.
    pub(super) fn wait(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.passed(state)
    }

    /// `None`: the disk is stalled now.
    pub(super) fn try_pass(&self) -> Option<MutexGuard<'_, State>> {
        if let Some(state) = self.look() {
            return Some(state);
        }
        if self.stalled.load(Ordering::Relaxed) {
            return None;
        }
        for _ in 0..SPINS {
            std::hint::spin_loop();
            if let Some(state) = self.look() {
                return Some(state);
            }
        }
        let since = self.clock.monotonic();
        while self.clock.monotonic().saturating_sub(since) < PATIENCE {
            std::thread::sleep(NAP);
            if let Some(state) = self.look() {
                return Some(state);
            }
        }
        if !self.stalled.swap(true, Ordering::Relaxed) {
            tracing::error!("the disk of the usage journal is stalled: requests are refused until it answers");
        }
        None
    }

    /// However long it takes, without a thread.
    pub(super) async fn pass(&self) -> MutexGuard<'_, State> {
        loop {
            if let Some(state) = self.try_pass() {
                return state;
            }
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Whether the request was open, as far as can be told. A close that would have to wait for a stalled disk is written by
    /// whoever gets through next: until then only this process knows it.
    pub(super) fn close(&self, close: Close) -> bool {
        match self.try_pass() {
            Some(mut state) => state.close(close.frame, close.request, close.count),
            None => {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.push(close);
                self.has_waiting.store(true, Ordering::Release);
                true
            }
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(super) fn waiting_closes(&self) -> u64 {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn look(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(self.passed(state)),
            Err(TryLockError::Poisoned(state)) => Some(self.passed(state.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn passed<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if self.stalled.load(Ordering::Relaxed) {
            self.stalled.store(false, Ordering::Relaxed);
        }
        if self.has_waiting.swap(false, Ordering::Acquire) {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            for Close { request, frame, count } in waiting {
                state.close(frame, request, count);
            }
        }
        state
    }
}
