//! How loaded an endpoint is: its peak-EWMA latency times the requests under way. A slow answer counts at once, a
//! fast one only as the slow ones are forgotten.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The load of one endpoint, as one thread sees it.
#[derive(Debug)]
pub(crate) struct Load {
    decay_seconds: f64,
    rtt: Mutex<Rtt>,
    pending: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
struct Rtt {
    seconds: f64,
    at: Instant,
}

/// No endpoint is taken to be faster: below this the measure is noise.
const FLOOR: f64 = 0.001;

impl Load {
    /// Of an endpoint that has not answered yet.
    pub(crate) fn new(default_rtt: Duration, decay: Duration, now: Instant) -> Self {
        Self {
            decay_seconds: decay.as_secs_f64().max(0.001),
            rtt: Mutex::new(Rtt {
                seconds: default_rtt.as_secs_f64().max(FLOOR),
                at: now,
            }),
            pending: AtomicU32::new(0),
        }
    }

    /// The load now: less is better.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        let rtt = *self.lock();
        let pending = self.pending.load(Ordering::Relaxed);
        (self.decayed(rtt, now)).max(FLOOR) * f64::from(pending + 1)
    }

    /// A request goes out.
    pub(crate) fn begin(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Its response has begun, after this time.
    pub(crate) fn end(&self, took: Duration, now: Instant) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
        let took = took.as_secs_f64();
        let mut rtt = self.lock();
        let seconds = if took > rtt.seconds {
            took
        } else {
            let weight = (-now.duration_since(rtt.at).as_secs_f64() / self.decay_seconds).exp();
            rtt.seconds * weight + took * (1.0 - weight)
        };
        *rtt = Rtt { seconds, at: now };
    }

    /// Without answers an endpoint's bad time is forgotten, so that it is tried again.
    fn decayed(&self, rtt: Rtt, now: Instant) -> f64 {
        let age = now.saturating_duration_since(rtt.at).as_secs_f64();
        if age < 0.01 {
            rtt.seconds
        } else {
            rtt.seconds * (-age / self.decay_seconds).exp()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rtt> {
        self.rtt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_answers_count_at_once_and_are_forgotten_slowly() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let load = Load::new(ms(30), Duration::from_secs(10), start);
        assert!((load.cost(start) - 0.030).abs() < 1e-9);
        load.begin();
        assert!((load.cost(start) - 0.060).abs() < 1e-9);
        load.end(ms(200), start);
        assert!((load.cost(start) - 0.200).abs() < 1e-9);
        let later = start + Duration::from_secs(10);
        let cost = load.cost(later);
        assert!(cost > 0.07 && cost < 0.08, "{cost}");
        load.begin();
        load.end(ms(2), later);
        let cost = load.cost(later);
        assert!(cost > 0.07 && cost < 0.08, "{cost}");
    }
}
