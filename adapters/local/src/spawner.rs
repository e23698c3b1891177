use std::{future::Future, pin::Pin, time::Duration};

use ai4free_ports::runtime::{TaskSpawner, Timer};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Runs tasks on a tokio runtime and remembers them until they end, so that a shutdown can wait for them.
#[derive(Clone, Debug)]
pub struct TokioSpawner {
    runtime: Handle,
    tasks: TaskTracker,
}

impl TokioSpawner {
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tasks: TaskTracker::new() }
    }

    /// How many tasks have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until every task has ended, also those that are spawned meanwhile. The caller bounds the wait.
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl TaskSpawner for TokioSpawner {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn_on(task, &self.runtime);
    }
}

impl Timer for TokioSpawner {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn join_waits_for_a_task_that_was_spawned_by_a_thread_outside_the_runtime() {
        let spawner = TokioSpawner::new(Handle::current());
        let done = Arc::new(AtomicBool::new(false));
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let (outside, flag) = (spawner.clone(), done.clone());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                outside.spawn(Box::pin(async move {
                    released.await.unwrap();
                    flag.store(true, Ordering::Relaxed);
                }));
            });
        });
        assert_eq!(spawner.running(), 1);
        release.send(()).unwrap();
        spawner.join().await;
        assert!(done.load(Ordering::Relaxed));
        assert_eq!(spawner.running(), 0);
    }

    #[tokio::test]
    async fn a_panicking_task_does_not_hold_up_the_join() {
        let spawner = TokioSpawner::new(Handle::current());
        spawner.spawn(Box::pin(async { panic!("on purpose") }));
        spawner.join().await;
        assert_eq!(spawner.running(), 0);
    }
}
