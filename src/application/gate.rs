//! Whether requests are admitted, and whether those that were are being cut.

use std::sync::atomic::{AtomicBool, Ordering};

/// One for the process. It opens once the limits are ours to hold: until then another process may be holding them.
pub struct Gate {
    open: AtomicBool,
    is_cut: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Gate {
    /// Closed. `is_cut` says whether the end of a shutdown is cutting what still runs: then a response that is dropped was
    /// not given up by its client.
    #[must_use]
    pub fn new(is_cut: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { open: AtomicBool::new(false), is_cut: Box::new(is_cut) }
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    pub fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_cut(&self) -> bool {
        (self.is_cut)()
    }
}
