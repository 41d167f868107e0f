//! Things that are followed: one task each, however many threads want it, for as long as one of them does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Things that are followed, by key.
#[derive(Debug)]
pub(crate) struct Lookups<K, T> {
    max: usize,
    entries: Arc<Mutex<HashMap<K, watch::Sender<T>>>>,
}

/// The publishing end of one of them.
#[derive(Debug)]
pub(crate) struct Publisher<K: Eq + Hash, T> {
    key: K,
    sender: watch::Sender<T>,
    entries: Arc<Mutex<HashMap<K, watch::Sender<T>>>>,
}

impl<K: Eq + Hash + Clone, T> Lookups<K, T> {
    /// At most `max` at one time.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            entries: Arc::default(),
        }
    }

    /// Follows `key`; `start` begins to publish it if nobody follows it yet. `None` if there are too many.
    pub(crate) fn subscribe(
        &self,
        key: K,
        initial: T,
        start: impl FnOnce(K, Publisher<K, T>),
    ) -> Option<watch::Receiver<T>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = entries.get(&key) {
            return Some(sender.subscribe());
        }
        if entries.len() >= self.max {
            return None;
        }
        let (sender, receiver) = watch::channel(initial);
        entries.insert(key.clone(), sender.clone());
        drop(entries);
        start(
            key.clone(),
            Publisher {
                key,
                sender,
                entries: Arc::clone(&self.entries),
            },
        );
        Some(receiver)
    }
}

impl<K: Eq + Hash, T> Publisher<K, T> {
    /// Tells all who follow.
    pub(crate) fn publish(&self, value: T) {
        self.sender.send_replace(value);
    }

    /// What was published last.
    pub(crate) fn last(&self) -> watch::Ref<'_, T> {
        self.sender.borrow()
    }

    /// Waits until nobody follows any more, and gives the key up.
    pub(crate) async fn abandoned(&self) {
        loop {
            self.sender.closed().await;
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody may have come between the two lines above.
            if self.sender.receiver_count() == 0 {
                entries.remove(&self.key);
                return;
            }
        }
    }
}
