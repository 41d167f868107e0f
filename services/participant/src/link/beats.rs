//! Signs of life of handlers, on their way out: of each attempt the newest, and not more often than anybody could look at them. So a handler that beats in
//! a tight loop neither fills memory nor keeps the stream from being read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sagamesh_api::saga::v1::Heartbeat;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior};

/// Between two of one link. Far below any time that a coordinator waits for one.
const PAUSE: Duration = Duration::from_millis(10);

/// Where handlers leave them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beats(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Details by lease token.
    newest: Mutex<BTreeMap<u64, String>>,
    there: Notify,
}

impl Beats {
    /// Takes the place of an earlier one of the same attempt.
    pub(crate) fn put(&self, lease_token: u64, details: String) {
        self.newest().insert(lease_token, details);
        self.0.there.notify_one();
    }

    /// Those that nobody has taken yet.
    fn take(&self) -> Vec<Heartbeat> {
        let newest = std::mem::take(&mut *self.newest());
        let beat = |(lease_token, details)| Heartbeat {
            lease_token,
            details,
        };
        newest.into_iter().map(beat).collect()
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        let newest = self.0.newest.lock();
        newest.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a link takes them.
pub(super) struct Outgoing {
    beats: Beats,
    pace: Interval,
}

impl Outgoing {
    pub(super) fn new(beats: Beats) -> Self {
        let mut pace = tokio::time::interval(PAUSE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { beats, pace }
    }

    /// For handlers.
    pub(super) const fn beats(&self) -> &Beats {
        &self.beats
    }

    /// The next ones, at least one. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Vec<Heartbeat> {
        while self.beats.newest().is_empty() {
            self.beats.0.there.notified().await;
        }
        self.pace.tick().await;
        self.beats.take()
    }

    /// Those that are there.
    pub(super) fn take(&self) -> Vec<Heartbeat> {
        self.beats.take()
    }
}
