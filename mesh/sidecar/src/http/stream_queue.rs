//! The requests that were handed to an HTTP/2 connection and have no stream of it yet.
//!
//! How many streams there may be is the peer's to say, and the library that opens them queues without limit and does not
//! tell when one is open. But it keeps their order, and touches a request's body only then: so two counters and a ticket
//! say who waits, without an allocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that may wait on one connection. Those that gave up count too until the connection passes them over: they
/// hold memory as well.
const MAX: u64 = 1024;

/// The requests of one connection that wait for a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamQueue {
    entered: AtomicU64,
    left: AtomicU64,
}

/// A request's place in it, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<StreamQueue>);

impl StreamQueue {
    /// Takes a place at the end: its ticket, and the place.
    pub(crate) fn enter(self: &Arc<Self>) -> (u64, Place) {
        let ticket = self.entered.fetch_add(1, Ordering::Relaxed);
        (ticket, Place(Arc::clone(self)))
    }

    /// Whether the request with this ticket still waits.
    pub(crate) fn holds(&self, ticket: u64) -> bool {
        self.left.load(Ordering::Relaxed) <= ticket
    }

    /// Whether no more may wait.
    pub(crate) fn is_full(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.entered.load(Ordering::Relaxed).saturating_sub(left) >= MAX
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_leave_in_the_order_in_which_they_came() {
        let queue = Arc::new(StreamQueue::default());
        let (first, place) = queue.enter();
        let (second, _place) = queue.enter();
        assert!(queue.holds(first) && queue.holds(second));
        drop(place);
        assert!(!queue.holds(first) && queue.holds(second));
    }

    #[test]
    fn it_is_bounded() {
        let queue = Arc::new(StreamQueue::default());
        let mut places: Vec<_> = (0..MAX).map(|_| queue.enter()).collect();
        assert!(queue.is_full());
        places.pop();
        assert!(!queue.is_full());
    }
}
