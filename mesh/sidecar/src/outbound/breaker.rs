//! Failure accrual: an endpoint that fails is taken out of the balancer, and tried again with one request at a time.
//!
//! ```text
//!          failures in a row, or too low a success rate           the pause is over: one request is the probe
//!   CLOSED ------------------------------------------> OPEN ---------------------------------------> PROBING
//!     ^                                                 ^  the probe failed: the pause doubles          |
//!     |                                                 +-----------------------------------------------+
//!     +------------------------------------------------------------ the probe succeeded ----------------+
//! ```

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::time::Instant;

use crate::policy::outbound::{Accrual, SuccessRate};

/// The breaker of one endpoint, shared by all threads.
#[derive(Debug)]
pub(crate) struct Breaker {
    accrual: Accrual,
    /// Closed and without failures: most requests look no further.
    clean: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    failures: u32,
    rate: Rate,
    /// Openings in a row.
    openings: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Closed,
    Open(Instant),
    Probing,
}

/// What a breaker says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Take it.
    Yes,
    /// Take it; this request is the probe.
    Probe,
    /// Not before this time; `None` while a probe is under way.
    No(Option<Instant>),
}

impl Breaker {
    /// Closed.
    pub(crate) fn new(accrual: Accrual) -> Self {
        let state = State {
            phase: Phase::Closed,
            failures: 0,
            rate: Rate::default(),
            openings: 0,
        };
        Self {
            accrual,
            clean: AtomicBool::new(true),
            state: Mutex::new(state),
        }
    }

    /// Whether a request may be sent.
    pub(crate) fn check(&self, now: Instant) -> Admit {
        if self.clean.load(Ordering::Acquire) {
            return Admit::Yes;
        }
        match self.lock().phase {
            Phase::Closed => Admit::Yes,
            Phase::Open(until) if until <= now => Admit::Probe,
            Phase::Open(until) => Admit::No(Some(until)),
            Phase::Probing => Admit::No(None),
        }
    }

    /// Takes the probe. False if another request was faster.
    pub(crate) fn take_probe(&self, now: Instant) -> bool {
        let mut state = self.lock();
        match state.phase {
            Phase::Open(until) if until <= now => {
                state.phase = Phase::Probing;
                true
            }
            _ => false,
        }
    }

    /// Counts how a request ended; `None` if nobody waited for its end. `random` is between 0 and 1.
    pub(crate) fn record(&self, failed: Option<bool>, probe: bool, now: Instant, random: f64) {
        if !probe
            && failed != Some(true)
            && self.accrual.success_rate.is_none()
            && self.clean.load(Ordering::Acquire)
        {
            return;
        }
        let mut state = self.lock();
        match (state.phase, failed) {
            // The probe says nothing, or that the endpoint was too slow for it: another one after the same pause.
            // Without the pause each request in turn would be sacrificed to an endpoint that hangs.
            (Phase::Probing, None) if probe => {
                let before = state.openings.saturating_sub(1);
                let pause = self.accrual.backoff.delay(before, random);
                state.phase = Phase::Open(now + pause);
            }
            (Phase::Probing, Some(true)) if probe => self.open(&mut state, now, random),
            (Phase::Probing, Some(false)) if probe => {
                *state = State {
                    phase: Phase::Closed,
                    failures: 0,
                    rate: Rate::default(),
                    openings: 0,
                };
            }
            // Requests from before it opened change nothing.
            (Phase::Probing | Phase::Open(_), _) | (Phase::Closed, None) => {}
            (Phase::Closed, Some(failed)) => {
                state.failures = if failed { state.failures + 1 } else { 0 };
                let low = self
                    .accrual
                    .success_rate
                    .is_some_and(|rate| state.rate.add(!failed, rate, now));
                if state.failures >= self.accrual.max_failures || low {
                    self.open(&mut state, now, random);
                }
            }
        }
        let clean = state.phase == Phase::Closed && state.failures == 0;
        self.clean.store(clean, Ordering::Release);
    }

    fn open(&self, state: &mut State, now: Instant, random: f64) {
        let pause = self.accrual.backoff.delay(state.openings, random);
        state.phase = Phase::Open(now + pause);
        state.openings = state.openings.saturating_add(1);
        tracing::info!(
            failures = state.failures,
            pause_ms = pause.as_millis() as u64,
            "an endpoint is taken out"
        );
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A success rate that forgets: both sums decay with the window.
#[derive(Debug, Default)]
struct Rate {
    successes: f64,
    requests: f64,
    at: Option<Instant>,
}

impl Rate {
    /// Adds a request. Whether the rate is now below the threshold.
    fn add(&mut self, success: bool, rate: SuccessRate, now: Instant) -> bool {
        if let Some(at) = self.at.replace(now) {
            let kept = (-now.duration_since(at).as_secs_f64() / rate.window.as_secs_f64()).exp();
            self.successes *= kept;
            self.requests *= kept;
        }
        self.requests += 1.0;
        self.successes += f64::from(u8::from(success));
        self.requests >= f64::from(rate.min_requests)
            && self.successes / self.requests < rate.threshold
    }
}

/// All breakers of the process: each endpoint's is one for all threads.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<HashMap<Whose, Weak<Breaker>>>);

/// The destination's name, what its endpoints are looked up by, and the endpoint.
type Whose = (Arc<str>, Arc<str>, SocketAddr);

impl Breakers {
    /// The breaker of the endpoint at `address`, among those of `path`, as the policy of `authority` wants it.
    pub(crate) fn get(
        &self,
        authority: &Arc<str>,
        path: &Arc<str>,
        address: SocketAddr,
        accrual: Accrual,
    ) -> Arc<Breaker> {
        let mut breakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(authority), Arc::clone(path), address);
        if let Some(breaker) = breakers
            .get(&key)
            .and_then(Weak::upgrade)
            .filter(|breaker| breaker.accrual == accrual)
        {
            return breaker;
        }
        breakers.retain(|_, breaker| breaker.strong_count() > 0);
        let breaker = Arc::new(Breaker::new(accrual));
        breakers.insert(key, Arc::downgrade(&breaker));
        breaker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::outbound::Backoff;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn accrual(max_failures: u32) -> Accrual {
        Accrual {
            max_failures,
            success_rate: None,
            backoff: Backoff {
                min: SECOND,
                max: 4 * SECOND,
                jitter: 0.5,
            },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_a_probe() {
        let breaker = Breaker::new(accrual(3));
        let start = Instant::now();
        for failed in [true, true, false, true, true] {
            breaker.record(Some(failed), false, start, 0.0);
        }
        assert_eq!(breaker.check(start), Admit::Yes);
        breaker.record(Some(true), false, start, 0.0);
        assert_eq!(breaker.check(start), Admit::No(Some(start + SECOND)));

        let later = start + SECOND;
        assert_eq!(breaker.check(later), Admit::Probe);
        assert!(breaker.take_probe(later));
        assert!(!breaker.take_probe(later));
        assert_eq!(breaker.check(later), Admit::No(None));
        // What was under way when it opened does not count.
        breaker.record(Some(false), false, later, 0.0);
        assert_eq!(breaker.check(later), Admit::No(None));
        breaker.record(Some(false), true, later, 0.0);
        assert_eq!(breaker.check(later), Admit::Yes);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_up_to_its_limit_and_has_jitter() {
        let breaker = Breaker::new(accrual(1));
        let mut now = Instant::now();
        breaker.record(Some(true), false, now, 1.0);
        assert_eq!(
            breaker.check(now),
            Admit::No(Some(now + SECOND.mul_f64(1.5)))
        );
        for pause in [2, 4, 4] {
            now += Duration::from_secs(10);
            assert!(breaker.take_probe(now));
            breaker.record(Some(true), true, now, 0.0);
            assert_eq!(breaker.check(now), Admit::No(Some(now + pause * SECOND)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_nobody_waited_for_is_followed_by_another_after_the_same_pause() {
        let breaker = Breaker::new(accrual(1));
        let mut now = Instant::now();
        breaker.record(Some(true), false, now, 0.0);
        for _ in 0..3 {
            now += SECOND;
            assert!(breaker.take_probe(now));
            breaker.record(None, true, now, 0.0);
            assert_eq!(breaker.check(now), Admit::No(Some(now + SECOND)));
        }
        assert_eq!(breaker.check(now + SECOND), Admit::Probe);
    }

    #[tokio::test(start_paused = true)]
    async fn a_low_success_rate_opens_it_too() {
        let rate = SuccessRate {
            threshold: 0.8,
            window: 10 * SECOND,
            min_requests: 5,
        };
        let breaker = Breaker::new(Accrual {
            success_rate: Some(rate),
            ..accrual(u32::MAX)
        });
        let now = Instant::now();
        for failed in [false, true, false, true] {
            breaker.record(Some(failed), false, now, 0.0);
            assert_eq!(breaker.check(now), Admit::Yes);
        }
        breaker.record(Some(false), false, now, 0.0);
        assert!(matches!(breaker.check(now), Admit::No(_)));
    }
}
