//! A circuit breaker: after some consecutive failures it refuses at once, and after a while lets one probe through.
//!
//! Its whole state is one atomic word, so that every thread and runtime of the process counts in the same place.
//!
//! ```text
//!            failures in a row                recovery is over: one caller gets the probe
//!   CLOSED ---------------------> OPEN ------------------------------------------------> PROBING
//!     ^                            ^                                                        |
//!     |                            +------------- the probe failed (or was dropped) --------+
//!     +-------------------------------------------------------- the probe succeeded --------+
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::env::Env;

/// A circuit breaker; a clone is the same breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    word: Arc<AtomicU64>,
    failures: u32,
    recovery_millis: u64,
}

/// When to ask again while a probe is under way.
const WHILE_PROBING: Duration = Duration::from_secs(1);

/// Refused: the breaker is open. It lets nobody through before this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is open, try again in {0:?}")]
pub struct RetryAfter(pub Duration);

impl RetryAfter {
    /// The time to tell a caller: up to a quarter longer, so that not all come back at the same moment.
    #[must_use]
    pub fn hint(self, env: &Env) -> Duration {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let more = env.entropy.next_u64() % (millis / 4 + 1);
        Duration::from_millis(millis.saturating_add(more))
    }
}

/// What the breaker does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls pass; so many failed in a row.
    Closed {
        /// Consecutive failures.
        failures: u32,
    },
    /// Calls are refused since this time (Unix milliseconds).
    Open {
        /// When it opened.
        since_millis: u64,
    },
    /// One probe is under way since this time; other calls are refused.
    Probing {
        /// When the probe was let through.
        since_millis: u64,
    },
}

impl Breaker {
    /// Opens after `failures` consecutive failures (at least 1, at most 16,383), for `recovery`.
    pub fn new(failures: u32, recovery: Duration) -> Self {
        Self {
            word: Arc::new(AtomicU64::new(pack(State::Closed { failures: 0 }))),
            failures: failures.clamp(1, MAX_FAILURES),
            recovery_millis: u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Asks to make a call at `now_millis` (Unix milliseconds).
    ///
    /// # Errors
    /// [`RetryAfter`] if the breaker is open.
    pub fn try_acquire(&self, now_millis: i64) -> Result<Permit, RetryAfter> {
        let now = u64::try_from(now_millis).unwrap_or(0);
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let since = match unpack(word) {
                State::Closed { .. } => return Ok(self.permit(now, None)),
                State::Open { since_millis } => since_millis,
                // Its permit is alive, since dropping it decides, and that may be in a moment.
                State::Probing { .. } => return Err(RetryAfter(WHILE_PROBING)),
            };
            let left = self.left(since, now);
            if !left.is_zero() {
                return Err(RetryAfter(left));
            }
            let probe = pack(State::Probing { since_millis: now });
            match self
                .word
                .compare_exchange_weak(word, probe, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(self.permit(now, Some(probe))),
                Err(actual) => word = actual,
            }
        }
    }

    /// What it does at the moment.
    pub fn state(&self) -> State {
        unpack(self.word.load(Ordering::Acquire))
    }

    fn left(&self, since: u64, now: u64) -> Duration {
        // A clock that was set back must not keep the breaker open for longer than the recovery time.
        let elapsed = if now < since {
            self.recovery_millis
        } else {
            now - since
        };
        Duration::from_millis(self.recovery_millis.saturating_sub(elapsed))
    }

    fn permit(&self, now: u64, probe: Option<u64>) -> Permit {
        Permit {
            breaker: self.clone(),
            acquired_millis: now,
            acquired: Instant::now(),
            probe,
            decided: false,
        }
    }

    fn succeeded(&self, probe: Option<u64>) {
        match probe {
            Some(probe) => self.decide_probe(probe, State::Closed { failures: 0 }),
            None => self.update(|state| {
                matches!(state, State::Closed { failures } if failures > 0)
                    .then_some(State::Closed { failures: 0 })
            }),
        }
    }

    fn failed(&self, probe: Option<u64>, now: u64) {
        match probe {
            Some(probe) => {
                self.decide_probe(probe, State::Open { since_millis: now });
            }
            None => self.update(|state| match state {
                State::Closed { failures } if failures + 1 >= self.failures => {
                    Some(State::Open { since_millis: now })
                }
                State::Closed { failures } => Some(State::Closed {
                    failures: failures + 1,
                }),
                // A call from before it opened: it says nothing new.
                State::Open { .. } | State::Probing { .. } => None,
            }),
        }
    }

    fn decide_probe(&self, probe: u64, state: State) {
        // Err means that a newer probe has taken over.
        let _ = self
            .word
            .compare_exchange(probe, pack(state), Ordering::AcqRel, Ordering::Acquire);
    }

    fn update(&self, next: impl Fn(State) -> Option<State>) {
        let change = |word| next(unpack(word)).map(pack);
        // Err means that nothing is to be changed.
        let _ = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }
}

/// Leave to make one call. Say how it went; dropping it counts as a failure.
#[derive(Debug)]
#[must_use = "dropping a permit counts as a failure"]
pub struct Permit {
    breaker: Breaker,
    acquired_millis: u64,
    acquired: Instant,
    probe: Option<u64>,
    decided: bool,
}

impl Permit {
    /// The peer answered (a business rejection is an answer).
    pub fn success(mut self) {
        self.decided = true;
        self.breaker.succeeded(self.probe);
    }

    /// The peer did not answer, or failed.
    pub fn failure(self) {
        drop(self);
    }

    /// The call was never made: nothing is learned. A probe goes back, and the next caller may take it at once.
    pub fn release(mut self) {
        self.decided = true;
        if let Some(probe) = self.probe {
            let since_millis = self
                .acquired_millis
                .saturating_sub(self.breaker.recovery_millis);
            self.breaker
                .decide_probe(probe, State::Open { since_millis });
        }
    }

    /// Whether this is the one call that decides if the breaker closes.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.decided {
            let elapsed = u64::try_from(self.acquired.elapsed().as_millis()).unwrap_or(0);
            self.breaker
                .failed(self.probe, self.acquired_millis.saturating_add(elapsed));
        }
    }
}

// The word: 2 bits of kind, 14 bits of failures, 48 bits of Unix milliseconds (good until the year 10889).
const MAX_FAILURES: u32 = (1 << 14) - 1;
const MILLIS_MASK: u64 = (1 << 48) - 1;

fn pack(state: State) -> u64 {
    match state {
        State::Closed { failures } => u64::from(failures.min(MAX_FAILURES)) << 48,
        State::Open { since_millis } => 1 << 62 | (since_millis & MILLIS_MASK),
        State::Probing { since_millis } => 2 << 62 | (since_millis & MILLIS_MASK),
    }
}

fn unpack(word: u64) -> State {
    let since_millis = word & MILLIS_MASK;
    match word >> 62 {
        0 => State::Closed {
            failures: u32::try_from(word >> 48 & u64::from(MAX_FAILURES)).unwrap_or(MAX_FAILURES),
        },
        1 => State::Open { since_millis },
        _ => State::Probing { since_millis },
    }
}

#[cfg(test)]
mod tests;
