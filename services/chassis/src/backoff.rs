//! Waiting a little longer each time, with jitter from the environment.

use std::time::Duration;

use crate::env::Env;

/// Exponential backoff: between half and all of a delay that doubles up to a limit.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    /// From this delay up to that one.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            next: first,
        }
    }

    /// The next wait.
    pub fn next(&mut self, env: &Env) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.limit);
        let half = delay / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(env.entropy.next_u64() % span)
    }

    /// From the beginning.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_limit_and_begins_again() {
        let env = Env::system();
        let (first, limit) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut backoff = Backoff::new(first, limit);
        for delay in [100, 200, 350, 350].map(Duration::from_millis) {
            let wait = backoff.next(&env);
            assert!(wait >= delay / 2 && wait <= delay, "{wait:?} of {delay:?}");
        }
        backoff.reset();
        assert!(backoff.next(&env) <= first);
    }
}
