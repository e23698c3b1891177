//! Panics: counted and located, their text withheld, because it may quote what was being worked on.

use prometheus::IntCounter;

/// Replaces the hook of the process.
pub(super) fn count_and_redact(panics: IntCounter) {
    std::panic::set_hook(Box::new(move |panic| {
        panics.inc();
        let location = panic.location().map(tracing::field::display);
        tracing::error!(location, "a task panicked; its message is withheld");
    }));
}
