//! When to connect again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_secs(2);
/// A stream that lived this long was a good one: the next failure starts from the beginning.
const GOOD: Duration = Duration::from_secs(5);

/// Exponential backoff with jitter: a random time between half and all of 25 ms, 50 ms, 100 ms ... 2 s.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// How long to wait after a stream that lived for `lived` (zero: there was none); `random` is any 64 bits.
    pub(crate) fn after(&mut self, lived: Duration, random: u64) -> Duration {
        if lived >= GOOD {
            self.next = FIRST;
        }
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        let half = full / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_nanos(random % spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_two_seconds_and_starts_again_after_a_good_stream() {
        let mut backoff = Backoff::new();
        let mut full = FIRST;
        for random in [0, u64::MAX, 12_345, 7, 99, u64::MAX / 3, 1, 2, 3, 4] {
            let wait = backoff.after(Duration::from_secs(1), random);
            assert!(
                wait >= full / 2 && wait <= full,
                "{wait:?} is not within half and all of {full:?}"
            );
            full = (full * 2).min(LONGEST);
        }
        assert_eq!(full, LONGEST);
        assert!(backoff.after(GOOD, u64::MAX) <= FIRST);
    }
}
