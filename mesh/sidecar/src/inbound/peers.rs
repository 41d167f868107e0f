//! What each peer takes of what all of them share, connections and requests under way: no more than half, so that
//! others always get some. A peer is a name, however many processes have it.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// All peers that are connected.
#[derive(Debug)]
pub(crate) struct Peers {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_name: HashMap<Arc<str>, Held>,
}

#[derive(Debug, Default)]
struct Held {
    connections: usize,
    requests: Arc<AtomicUsize>,
}

/// One connection of a peer's, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    peers: Arc<Peers>,
    name: Arc<str>,
    /// The peer's requests under way, on all of its connections.
    pub(super) requests: Arc<AtomicUsize>,
}

impl Peers {
    /// With so many connections.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: Mutex::default(),
        })
    }

    /// Lets another connection of `name` in, or gives the reason why not: a metric's label, and the log's words.
    pub(super) fn admit(
        self: &Arc<Self>,
        name: &Arc<str>,
    ) -> Result<Admitted, (&'static str, &'static str)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.max {
            return Err(("too_many_connections", "too many connections are open"));
        }
        let held = open.by_name.get(name).map_or(0, |held| held.connections);
        if held >= half(self.max) {
            return Err((
                "too_many_of_peer",
                "this peer holds half of all connections already",
            ));
        }
        open.total += 1;
        let held = open.by_name.entry(Arc::clone(name)).or_default();
        held.connections += 1;
        Ok(Admitted {
            peers: Arc::clone(self),
            name: Arc::clone(name),
            requests: Arc::clone(&held.requests),
        })
    }
}

/// What one of them may have at most.
pub(super) fn half(max: usize) -> usize {
    max.div_ceil(2)
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self
            .peers
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(held) = open.by_name.get_mut(&self.name) {
            held.connections -= 1;
            if held.connections == 0 {
                open.by_name.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_takes_more_than_half() {
        let peers = Peers::new(4);
        let (a, b, c) = ("a".into(), "b".into(), "c".into());
        let mut held = vec![peers.admit(&a).unwrap(), peers.admit(&a).unwrap()];
        assert_eq!(peers.admit(&a).unwrap_err().0, "too_many_of_peer");
        held.extend([peers.admit(&b).unwrap(), peers.admit(&b).unwrap()]);
        assert_eq!(peers.admit(&c).unwrap_err().0, "too_many_connections");
        held.clear();
        assert!(peers.open.lock().unwrap().by_name.is_empty());
        peers.admit(&c).unwrap();
    }

    #[test]
    fn a_peers_connections_share_its_requests() {
        let peers = Peers::new(4);
        let (a, b) = ("a".into(), "b".into());
        let [one, two] = [&a, &a].map(|name| peers.admit(name).unwrap());
        let other = peers.admit(&b).unwrap();
        assert!(Arc::ptr_eq(&one.requests, &two.requests));
        assert!(!Arc::ptr_eq(&one.requests, &other.requests));
    }
}
