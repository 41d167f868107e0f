//! Owned tasks: whatever is spawned has a name, is told to stop, and is waited for.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of a process, and its two-phase shutdown.
///
/// First [`Tasks::draining`] is cancelled: long-lived streams end, servers stop accepting, requests under way
/// finish. Once the server has drained, [`Tasks::token`] is cancelled: workers (a committer, a follower) stop.
#[derive(Clone, Debug)]
pub struct Tasks {
    draining: CancellationToken,
    token: CancellationToken,
    tracker: TaskTracker,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    panicked: Arc<OnceLock<&'static str>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self {
            draining: CancellationToken::new(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: Arc::default(),
            panicked: Arc::default(),
        }
    }

    /// Cancelled when workers must stop, after the server has drained.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Cancelled when shutdown begins: end long-lived streams, start nothing new, finish what is under way.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Begins the shutdown of the process (what a signal does).
    pub fn begin_drain(&self) {
        self.draining.cancel();
    }

    /// Runs `future` as a task called `name`. It must return soon after [`Tasks::token`] is cancelled.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard = Running::enter(&self.running, name);
        self.tracker.spawn(async move {
            let _guard = guard;
            future.await
        })
    }

    /// The same for a task that runs as long as the process: without it the process is of no use, so that it shuts down if the task panics, to be
    /// started again.
    pub fn spawn_essential<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard = EndsProcess(name, self.clone());
        self.spawn(name, async move {
            let _guard = guard;
            future.await
        })
    }

    /// Begins the drain, tells every task to stop and waits for them, at most `deadline`.
    ///
    /// # Errors
    /// The names of the tasks that are still running.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Vec<&'static str>> {
        self.draining.cancel();
        self.token.cancel();
        self.tracker.close();
        match tokio::time::timeout(deadline, self.tracker.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.running()),
        }
    }

    /// The first essential task that panicked.
    pub fn panicked(&self) -> Option<&'static str> {
        self.panicked.get().copied()
    }

    /// The names of the tasks that are running, in alphabetical order.
    pub fn running(&self) -> Vec<&'static str> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .copied()
            .collect()
    }
}

/// Begins the drain if it is dropped by a panic.
struct EndsProcess(&'static str, Tasks);

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                task = self.0,
                "a task panicked that this process cannot do without: it shuts down, to be started again"
            );
            self.1.panicked.get_or_init(|| self.0);
            self.1.begin_drain();
        }
    }
}

/// Counts a task as running until it is dropped, by whatever way it ends.
struct Running {
    name: &'static str,
    all: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Running {
    fn enter(all: &Arc<Mutex<BTreeMap<&'static str, usize>>>, name: &'static str) -> Self {
        *all.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name)
            .or_default() += 1;
        Self {
            name,
            all: Arc::clone(all),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                all.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_an_essential_task_ends_the_process_and_one_of_a_request_does_not() {
        let tasks = Tasks::new();
        let request = tasks.spawn("a request", async { panic!("on purpose") });
        assert!(request.await.is_err());
        assert!(!tasks.draining().is_cancelled());
        assert_eq!(tasks.panicked(), None);
        let worker = tasks.spawn_essential("a worker", async { panic!("on purpose") });
        assert!(worker.await.is_err());
        assert!(tasks.draining().is_cancelled());
        assert_eq!(tasks.panicked(), Some("a worker"));
        assert_eq!(tasks.running(), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn an_essential_task_that_returns_ends_nothing() {
        let tasks = Tasks::new();
        let returned = tasks.spawn_essential("a worker", async { 1 });
        assert_eq!(returned.await.expect("returned"), 1);
        assert!(!tasks.draining().is_cancelled());
    }
}
