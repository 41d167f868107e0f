//! The one timer queue: what is due when, with exact removal, so that timers of ended sagas take no memory.

use std::collections::BTreeMap;

use ledger::StreamId;

use crate::saga::Timer;

/// Names a timer that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey {
    at: i64,
    order: u64,
}

/// What is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// A time that a saga waits for.
    Saga(StreamId, Timer),
    /// The timeout, or the heartbeat timeout, of the attempt with this token.
    Attempt(u64),
    /// The breaker of this participant's queue may let a probe through.
    Probe(usize, usize),
}

/// Timers by time; equal times in the order in which they were set.
#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeMap<TimerKey, Due>,
    order: u64,
    earlier: bool,
}

impl Timers {
    /// Sets a timer at `at` (Unix milliseconds).
    pub fn set(&mut self, at: i64, due: Due) -> TimerKey {
        self.order += 1;
        let key = TimerKey {
            at,
            order: self.order,
        };
        self.earlier |= self.next().is_none_or(|next| at < next);
        self.by_time.insert(key, due);
        key
    }

    /// Removes a timer; one that has fired already is ignored.
    pub fn remove(&mut self, key: TimerKey) {
        self.by_time.remove(&key);
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<i64> {
        self.by_time.first_key_value().map(|(key, _)| key.at)
    }

    /// Whether, since this was asked last, a timer was set that is due before all others.
    pub fn take_earlier(&mut self) -> bool {
        std::mem::take(&mut self.earlier)
    }

    /// Takes the next timer that is due at `now`.
    pub fn pop(&mut self, now: i64) -> Option<Due> {
        let first = self.by_time.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }

    /// How many are set.
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_in_order_and_removable() {
        let mut timers = Timers::default();
        let late = timers.set(30, Due::Attempt(3));
        assert!(timers.take_earlier());
        timers.set(10, Due::Attempt(1));
        timers.set(10, Due::Attempt(2));
        assert!(timers.take_earlier());
        timers.set(40, Due::Attempt(4));
        assert!(!timers.take_earlier());
        timers.remove(late);
        assert_eq!(timers.pop(9), None);
        assert_eq!(timers.pop(35), Some(Due::Attempt(1)));
        assert_eq!(timers.pop(35), Some(Due::Attempt(2)));
        assert_eq!(timers.pop(35), None);
        assert_eq!((timers.len(), timers.next()), (1, Some(40)));
    }
}
