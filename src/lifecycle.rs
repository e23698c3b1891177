//! The life of the process: its workers, and the signals that end it.

use std::{future::Future, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// After a worker panicked.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The loops behind the request path. Each ends when its own token is cancelled.
#[derive(Default)]
pub struct Workers {
    running: JoinSet<()>,
}

impl Workers {
    /// Runs a worker once.
    pub fn run(&mut self, name: &'static str, worker: impl Future<Output = ()> + Send + 'static) {
        self.supervise(name, {
            let mut worker = Some(worker);
            move || worker.take()
        });
    }

    /// Runs a worker, and again after each panic, for as long as `make` gives one.
    pub fn supervise<F>(&mut self, name: &'static str, mut make: impl FnMut() -> Option<F> + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.spawn(async move {
            while let Some(worker) = make() {
                let mut task = JoinSet::new();
                task.spawn(worker);
                match task.join_next().await {
                    Some(Err(error)) if error.is_panic() => {
                        tracing::error!(worker = name, "worker panicked");
                        tokio::time::sleep(RESTART_AFTER).await;
                    }
                    _ => return,
                }
            }
        });
    }

    /// Waits for all of them; those that take longer are dropped.
    pub async fn join(mut self, within: Duration) {
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("a worker did not end in time");
        }
    }
}

/// From now on a file that would grow beyond `ulimit -f` is an error for who writes it, as a full disk is, and not the end of
/// the process: a signal that somebody listens to does nothing else.
pub fn survive_file_size_limit() {
    // The number of SIGXFSZ on every Unix that we know but MIPS.
    const SIGXFSZ: i32 = 25;
    if signal(SignalKind::from_raw(SIGXFSZ)).is_err() {
        tracing::warn!("a file size limit would end the process");
    }
}

/// Cancels `stopping` at the first SIGTERM or SIGINT, and `now` at the second.
pub async fn watch_signals(stopping: CancellationToken, now: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals can't be watched");
        return;
    };
    for token in [stopping, now] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    }
}
