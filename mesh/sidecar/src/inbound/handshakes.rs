//! Connections whose peer has not shown yet who it is. Anybody on the machine can open such connections, so they have
//! few places of their own, and the oldest makes room for the newest: a peer with a certificate is through in
//! milliseconds, and whoever sends nothing is only ever in the way of others like it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The places.
#[derive(Debug)]
pub(crate) struct Handshakes {
    max: usize,
    open: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// Each is told that it has to go by the end of its channel.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One of the places.
#[derive(Debug)]
pub(crate) struct Handshake {
    all: Arc<Handshakes>,
    age: u64,
    evicted: oneshot::Receiver<()>,
}

impl Handshakes {
    /// So many.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: Mutex::default(),
        })
    }

    /// Takes a place, if need be the oldest one's.
    pub(crate) fn enter(self: &Arc<Self>) -> Handshake {
        let (kept, evicted) = oneshot::channel();
        let mut places = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if places.by_age.len() >= self.max {
            places.by_age.pop_first();
        }
        let age = places.next;
        places.next += 1;
        places.by_age.insert(age, kept);
        Handshake {
            all: Arc::clone(self),
            age,
            evicted,
        }
    }
}

impl Handshake {
    /// Ends when another one took the place.
    pub(super) async fn evicted(&mut self) {
        // Nothing is ever sent: the channel just ends.
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut places = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        places.by_age.remove(&self.age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let all = Handshakes::new(2);
        let mut first = all.enter();
        let mut second = all.enter();
        assert!(first.evicted().now_or_never().is_none());
        let third = all.enter();
        assert!(first.evicted().now_or_never().is_some());
        assert!(second.evicted().now_or_never().is_none());
        // One that is through leaves its place to the next.
        drop(third);
        let _fourth = all.enter();
        assert!(second.evicted().now_or_never().is_none());
    }
}
