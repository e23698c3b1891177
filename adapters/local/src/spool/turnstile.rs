//! The lock of a spool. Requests come on reactor threads, and the disk may hold up whoever has the lock: nobody queues behind
//! a disk that is stalled, and no reactor thread sleeps.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use ai4free_ports::request::RequestId;
use tokio::sync::Notify;

use super::state::{SpoolFigures, State};

/// Looks at a lock that is held for some microseconds mostly, before one waits without a thread.
const SPINS: u32 = 1000;
/// A waiting task looks again after this long, should nobody wake it.
const NAP: Duration = Duration::from_millis(10);
/// A write takes microseconds. Who has looked so often, and found the same one in the way each time, knows that the disk is
/// stalled; who comes then does not wait at all. Looks are counted, not time: where threads do not get a processor, waiting
/// tasks do not either.
pub(super) const PATIENCE: u32 = 100;

pub(super) struct Turnstile {
    state: Mutex<State>,
    /// As it was when somebody last left.
    figures: Mutex<SpoolFigures>,
    /// How many have got through.
    passed: AtomicU64,
    /// Somebody has waited in vain, and nobody has got through since.
    stalled: AtomicBool,
    /// Wakes those who wait, when somebody has left.
    left: Notify,
    sleepers: AtomicU64,
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

/// Who holds one is through.
pub(super) struct Passage<'a> {
    // Dropped in this order: who is woken finds the lock free.
    state: MutexGuard<'a, State>,
    leaving: Leaving<'a>,
}

struct Leaving<'a>(&'a Turnstile);

impl Deref for Passage<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Passage<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.leaving.0.publish(&self.state);
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.moves();
        // Who could not get through meanwhile has left a close here, and may wait for it. Either we see it now, or they find the
        // lock free: the lock is given back before the fence, and looked at after theirs.
        fence(Ordering::SeqCst);
        while self.0.has_waiting.load(Ordering::Relaxed)
            && let Ok(mut state) = self.0.state.try_lock()
        {
            self.0.write_waiting(&mut state);
            self.0.publish(&state);
        }
        if self.0.sleepers.load(Ordering::Relaxed) > 0 {
            self.0.left.notify_waiters();
        }
    }
}

impl Turnstile {
    pub(super) fn new(state: State) -> Self {
        Self {
            figures: Mutex::new(state.figures()),
            state: Mutex::new(state),
            passed: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            left: Notify::new(),
            sleepers: AtomicU64::new(0),
            waiting: Mutex::default(),
            has_waiting: AtomicBool::new(false),
        }
    }

    /// However long it takes: for threads that may block.
    pub(super) fn wait(&self) -> Passage<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.passage(state)
    }

    /// `None`: it would have to be waited for.
    pub(super) fn try_pass(&self) -> Option<Passage<'_>> {
        for _ in 0..SPINS {
            if let Some(passage) = self.look() {
                return Some(passage);
            }
            if self.is_stalled() {
                return None;
            }
            std::hint::spin_loop();
        }
        None
    }

    /// However long it takes, without a thread.
    pub(super) async fn pass(&self) -> Passage<'_> {
        loop {
            if let Some(passage) = self.try_pass() {
                return passage;
            }
            self.nap().await;
        }
    }

    /// Returns when somebody has got through, or could; whether that was in time.
    pub(super) async fn ready(&self) -> bool {
        let before = self.passed.load(Ordering::Relaxed);
        self.patiently(|| self.passed.load(Ordering::Relaxed) != before || self.look().is_some()).await
    }

    /// Returns when no close waits any more, or it is known that the disk is stalled.
    pub(super) async fn written(&self) {
        if !self.has_waiting.load(Ordering::Acquire) {
            return;
        }
        self.patiently(|| !self.has_waiting.load(Ordering::Acquire) || self.look().is_some()).await;
    }

    /// Looks until it is so, and whether it was in time.
    async fn patiently(&self, is_so: impl Fn() -> bool) -> bool {
        let mut in_the_way = self.passed.load(Ordering::Relaxed);
        let mut looks = 0;
        while !is_so() {
            if self.is_stalled() {
                return false;
            }
            let passed = self.passed.load(Ordering::Relaxed);
            if passed != in_the_way {
                (in_the_way, looks) = (passed, 0);
            }
            if looks == PATIENCE {
                self.give_up();
                return false;
            }
            looks += 1;
            self.nap().await;
        }
        true
    }

    fn give_up(&self) {
        if !self.stalled.swap(true, Ordering::Relaxed) {
            tracing::error!("the disk of the usage journal is stalled: nobody waits until it answers");
        }
    }

    async fn nap(&self) {
        let _asleep = Sleeper::among(&self.sleepers);
        let _either = tokio::time::timeout(NAP, self.left.notified()).await;
    }

    /// Whether the request was open, as far as can be told. A close that would have to wait is written by whoever leaves or
    /// gets through next: until then only this process knows it.
    pub(super) fn close(&self, close: Close) -> bool {
        if let Some(mut state) = self.try_pass() {
            return state.close(close.frame, close.request, close.count);
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(close);
        self.has_waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Whoever was in the way may have left just before.
        drop(self.look());
        true
    }

    /// Without waiting for the disk.
    pub(super) fn figures(&self) -> SpoolFigures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(super) fn waiting_closes(&self) -> u64 {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn look(&self) -> Option<Passage<'_>> {
        match self.state.try_lock() {
            Ok(state) => Some(self.passage(state)),
            Err(TryLockError::Poisoned(state)) => Some(self.passage(state.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn passage<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Passage<'a> {
        self.passed.fetch_add(1, Ordering::Relaxed);
        self.moves();
        self.write_waiting(&mut state);
        Passage { state, leaving: Leaving(self) }
    }

    /// The disk answers.
    fn moves(&self) {
        if self.is_stalled() {
            self.stalled.store(false, Ordering::Relaxed);
        }
    }

    fn publish(&self, state: &State) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = state.figures();
    }

    fn write_waiting(&self, state: &mut State) {
        if !self.has_waiting.load(Ordering::Acquire) {
            return;
        }
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        for Close { request, frame, count } in waiting {
            state.close(frame, request, count);
        }
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_waiting.store(!waiting.is_empty(), Ordering::Release);
    }
}

struct Sleeper<'a>(&'a AtomicU64);

impl<'a> Sleeper<'a> {
    fn among(sleepers: &'a AtomicU64) -> Self {
        sleepers.fetch_add(1, Ordering::Relaxed);
        Self(sleepers)
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
