//! Waiting a little longer each time, with jitter from the environment.

use std::time::Duration;

use chassis::Env;

/// Exponential backoff: between half and all of a delay that doubles up to a limit.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            next: first,
        }
    }

    /// The next wait.
    pub(crate) fn next(&mut self, env: &Env) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.limit);
        let half = delay / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(env.entropy.next_u64() % span)
    }

    /// From the beginning.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}
