//! Clocks of machines: they all run at the same speed, and each may be wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chassis::env::Clock;
use tokio::time::Instant;

/// When every simulation begins, Unix milliseconds.
pub const BEGINNING: i64 = 1_800_000_000_000;

/// The clock of one machine.
#[derive(Debug)]
pub struct MachineClock {
    started: Instant,
    wrong_by: AtomicI64,
}

impl MachineClock {
    /// A clock that is right. The simulation begins at `started`.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            wrong_by: AtomicI64::new(0),
        }
    }

    /// Sets how wrong it is, in milliseconds.
    pub fn set_wrong_by(&self, millis: i64) {
        self.wrong_by.store(millis, Ordering::Relaxed);
    }
}

impl Clock for MachineClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.now_millis()).unwrap_or(0))
    }

    fn now_millis(&self) -> i64 {
        let passed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        BEGINNING + passed + self.wrong_by.load(Ordering::Relaxed)
    }
}
