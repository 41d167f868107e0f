//! Reads what the waiting commands need and memory does not have.

use std::collections::HashSet;
use std::sync::Arc;

use super::Committer;
use crate::decider::{Decider, Observer};
use crate::store::Loaded;
use crate::{Error, StreamId};

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
        match self.store.load(streams, true).await {
            Ok(loaded) => {
                for loaded in loaded {
                    let stream = loaded.stream.clone();
                    if let Err(error) = self.restore(loaded).await {
                        self.inner.failed.insert(stream, error);
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

    async fn restore(&mut self, loaded: Loaded) -> Result<(), Error> {
        let Some((version, data)) = loaded.snapshot else {
            let initial = self.decider.initial(&loaded.stream);
            return self.fold(loaded.stream, initial, 0, &loaded.events);
        };
        if let Some(state) = self.decider.restore(&loaded.stream, &data) {
            return self.fold(loaded.stream, state, version, &loaded.events);
        }
        // The snapshot's format is not known any more: from the start.
        for whole in self.store.load(&[loaded.stream], false).await? {
            let initial = self.decider.initial(&whole.stream);
            self.fold(whole.stream, initial, 0, &whole.events)?;
        }
        Ok(())
    }

    fn fold(
        &mut self,
        stream: StreamId,
        mut state: D::State,
        snapshot: u64,
        events: &[(u64, String, Vec<u8>)],
    ) -> Result<(), Error> {
        let mut version = snapshot;
        for (number, type_name, data) in events {
            if *number != version + 1 {
                let detail = format!("stream {stream} has event {number} after {version}");
                return Err(Error::Corrupt {
                    database: self.store.name(),
                    detail,
                });
            }
            self.decider
                .evolve(&mut state, &self.decider.decode(type_name, data)?);
            version = *number;
        }
        if version == 0 {
            self.inner.empty.push(stream.clone());
        }
        self.inner.cache.insert(stream, state, version, snapshot);
        Ok(())
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
