//! Reads what the waiting commands need and memory does not have.

use std::collections::HashSet;
use std::sync::Arc;

use super::Committer;
use crate::StreamId;
use crate::decider::{Decider, Observer};
use crate::restore::{Read, Restored, restore};

impl<D: Decider, O: Observer<D>> Committer<D, O> {
    /// States and inbox rows for everything that waits.
    pub(super) async fn load(&mut self) {
        let mut missing: Vec<StreamId> = Vec::new();
        let mut seen: HashSet<StreamId> = HashSet::new();
        let mut keys: Vec<Arc<str>> = Vec::new();
        let inner = &mut self.inner;
        for waiting in inner.waiting.iter().take(self.options.max_batch) {
            let presume = waiting.attempts == 0 && self.decider.expects_new(&waiting.command);
            for stream in &waiting.streams {
                if inner.cache.contains(stream) {
                    continue;
                }
                if presume && !seen.contains(stream) {
                    inner
                        .cache
                        .presume(stream.clone(), self.decider.initial(stream));
                } else if seen.insert(stream.clone()) {
                    missing.push(stream.clone());
                }
            }
            keys.extend(
                waiting
                    .keys
                    .iter()
                    .filter(|key| !inner.inbox.contains_key(*key))
                    .cloned(),
            );
        }
        if !missing.is_empty() {
            self.load_streams(&missing).await;
        }
        if !keys.is_empty() {
            keys.sort_unstable();
            keys.dedup();
            self.load_inbox(keys).await;
        }
    }

    /// Puts streams into the cache; those that cannot be read are noted with the reason.
    pub(super) async fn load_streams(&mut self, streams: &[StreamId]) {
        let read: Read = |store, streams, snapshots| store.load(streams, snapshots);
        match restore(&*self.decider, &*self.store, read, streams).await {
            Ok(restored) => {
                for (stream, restored) in restored {
                    match restored {
                        Ok(restored) => self.keep(stream, restored),
                        Err(error) => drop(self.inner.failed.insert(stream, error)),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "streams could not be read");
                self.inner
                    .failed
                    .extend(streams.iter().map(|stream| (stream.clone(), error.clone())));
            }
        }
    }

    fn keep(&mut self, stream: StreamId, restored: Restored<D::State>) {
        let Restored {
            state,
            version,
            snapshot,
        } = restored;
        if version == 0 {
            self.inner.empty.push(stream.clone());
        }
        self.inner.cache.insert(stream, state, version, snapshot);
    }

    async fn load_inbox(&mut self, keys: Vec<Arc<str>>) {
        match self.store.inbox(&keys).await {
            Ok(rows) => {
                for key in keys {
                    self.inner.inbox.insert(key, None);
                }
                for (key, value) in rows {
                    self.inner.inbox.insert(key.into(), Some(value.into()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the inbox could not be read");
                self.inner.inbox_failed = Some(error);
            }
        }
    }
}
