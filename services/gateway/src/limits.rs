//! How often one subject or one address may call.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use tonic::Code;

use crate::ERRORS;
use crate::config::LimitConfig;

type Limiter<K> =
    RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// Rate limits, counted in this process.
pub struct Limits {
    subjects: Window<String>,
    addresses: Window<IpAddr>,
    under_way: Arc<Mutex<BTreeMap<String, u32>>>,
    max_under_way: u32,
}

/// A subject's request under way; dropped when its answer has ended.
#[derive(Debug)]
pub struct UnderWay {
    subject: String,
    all: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.subject);
            }
        }
    }
}

/// What is left, for the RateLimit headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Most requests at once.
    pub limit: u32,
    /// Requests left now.
    pub remaining: u32,
    /// Seconds until all are there again.
    pub reset_seconds: u64,
}

/// A request too many.
#[derive(Debug)]
pub struct TooMany {
    /// What the caller is told.
    pub problem: chassis::Problem,
    /// What is left: nothing.
    pub allowance: Allowance,
    /// Seconds until the next request may come.
    pub retry_after_seconds: u64,
}

impl Limits {
    /// Limits as configured.
    pub fn new(config: &LimitConfig) -> Self {
        Self {
            subjects: Window::new(config.rate_per_subject, config.burst_per_subject, "subject"),
            addresses: Window::new(config.rate_per_address, config.burst_per_address, "address"),
            under_way: Arc::default(),
            max_under_way: config.max_concurrent_per_subject.get(),
        }
    }

    /// Counts a request of a subject.
    ///
    /// # Errors
    /// It is one too many.
    pub fn subject(&self, subject: &str) -> Result<Allowance, Box<TooMany>> {
        self.subjects.check(&subject.to_owned())
    }

    /// Counts a request of a subject as under way until what is returned is dropped.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED (TOO_MANY_AT_ONCE): the subject has as many under way as it may.
    pub fn begin(&self, subject: &str) -> Result<UnderWay, chassis::Problem> {
        let mut all = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(subject.to_owned()).or_insert(0);
        if *count >= self.max_under_way {
            let text = format!(
                "at most {} requests and streams of one subject at a time: end one first",
                self.max_under_way
            );
            return Err(ERRORS
                .problem(Code::ResourceExhausted, "TOO_MANY_AT_ONCE", text)
                .retry_after(Duration::from_secs(1)));
        }
        *count += 1;
        Ok(UnderWay {
            subject: subject.to_owned(),
            all: Arc::clone(&self.under_way),
        })
    }

    /// Counts a request from an address.
    ///
    /// # Errors
    /// It is one too many.
    pub fn address(&self, address: IpAddr) -> Result<Allowance, Box<TooMany>> {
        self.addresses.check(&address)
    }

    /// Forgets whoever has not called for a while, so that memory stays bounded by the callers of the last seconds.
    pub fn sweep(&self) {
        self.subjects.limiter.retain_recent();
        self.addresses.limiter.retain_recent();
    }
}

struct Window<K: Clone + Hash + Eq> {
    limiter: Limiter<K>,
    burst: u32,
    rate: u32,
    of: &'static str,
    clock: DefaultClock,
}

impl<K: Clone + Hash + Eq> Window<K> {
    fn new(rate: NonZeroU32, burst: NonZeroU32, of: &'static str) -> Self {
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self {
            limiter: RateLimiter::keyed(quota).with_middleware(),
            burst: burst.get(),
            rate: rate.get(),
            of,
            clock: DefaultClock::default(),
        }
    }

    fn check(&self, key: &K) -> Result<Allowance, Box<TooMany>> {
        match self.limiter.check_key(key) {
            Ok(state) => Ok(self.allowance(state.remaining_burst_capacity())),
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let retry_after_seconds = ceil_seconds(wait);
                let message = format!(
                    "too many requests from this {}: at most {} a second; try again in {retry_after_seconds} s",
                    self.of, self.rate
                );
                let problem = ERRORS
                    .problem(Code::ResourceExhausted, "RATE_LIMITED", message)
                    .retry_after(wait);
                Err(Box::new(TooMany {
                    problem,
                    allowance: self.allowance(0),
                    retry_after_seconds,
                }))
            }
        }
    }

    fn allowance(&self, remaining: u32) -> Allowance {
        let missing = self.burst.saturating_sub(remaining);
        Allowance {
            limit: self.burst,
            remaining,
            reset_seconds: u64::from(missing.div_ceil(self.rate)),
        }
    }
}

fn ceil_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_is_refused() {
        let window = Window::new(
            NonZeroU32::MIN,
            NonZeroU32::new(3).expect("three"),
            "subject",
        );
        let left: Vec<u32> = (0..3)
            .map(|_| {
                window
                    .check(&"ann".to_owned())
                    .expect("within the burst")
                    .remaining
            })
            .collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = window.check(&"ann".to_owned()).expect_err("one too many");
        assert_eq!(
            (
                refused.retry_after_seconds,
                refused.allowance.remaining,
                refused.allowance.limit
            ),
            (1, 0, 3)
        );
        assert_eq!(refused.problem.reason(), "RATE_LIMITED");
        window
            .check(&"bob".to_owned())
            .expect("another subject has its own burst");
    }
}
