//! How far a projection has got.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A position that others wait for. They are woken in the order in which they came, which a watch channel does not promise: a simulation must run the
/// same way twice.
#[derive(Debug, Default)]
pub(super) struct Progress {
    position: AtomicU64,
    closed: AtomicBool,
    changed: Notify,
    /// Somebody has begun to wait for a position.
    hurry: Notify,
    /// How many wait.
    waiting: AtomicUsize,
}

/// Counts one who waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Progress {
    pub(super) fn get(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, position: u64) {
        self.position.store(position, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Nothing follows any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until somebody waits for a position that is not reached.
    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Whether somebody waits for a position.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits for a position. False if it will not be reached.
    pub(super) async fn reached(&self, position: u64) -> bool {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        let mut hurry = true;
        loop {
            // Before the look: what changes after it is not missed.
            let changed = self.changed.notified();
            if self.get() >= position {
                return true;
            }
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            if hurry {
                self.hurry.notify_one();
                hurry = false;
            }
            changed.await;
        }
    }
}
