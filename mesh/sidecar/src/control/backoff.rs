//! Pauses between attempts to reach something that is away.

use std::time::Duration;

use rand::RngExt as _;

use crate::policy::outbound::Backoff;

/// Linkerd's pauses towards the control plane: 100 ms to 10 s, with a tenth of jitter.
const CONTROL: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(10),
    jitter: 0.1,
};

/// Counts attempts and gives the pause before the next.
#[derive(Debug)]
pub(crate) struct Retry {
    backoff: Backoff,
    attempts: u32,
}

impl Retry {
    /// Towards the control plane.
    pub(crate) fn new() -> Self {
        Self::with(CONTROL)
    }

    /// With these pauses.
    pub(crate) fn with(backoff: Backoff) -> Self {
        Self {
            backoff,
            attempts: 0,
        }
    }

    /// It worked: the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The pause before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.backoff.delay(self.attempts, rand::rng().random());
        self.attempts = self.attempts.saturating_add(1);
        pause
    }
}
