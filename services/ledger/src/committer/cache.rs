//! States in memory, bounded.

use std::collections::{HashMap, VecDeque};

use crate::StreamId;

pub(super) struct Entry<S> {
    pub(super) state: S,
    pub(super) version: u64,
    /// The version of the newest snapshot.
    pub(super) snapshot: u64,
    /// The round that last looked at it.
    pub(super) round: u64,
    /// Thought to be new without having looked: good enough to write to, because a conflict would show.
    pub(super) presumed: bool,
    /// Used since the hand last passed.
    used: bool,
    /// What it was said to weigh last.
    pub(super) weight: usize,
    /// Tells this entry from an earlier one of the same stream in `order`.
    id: u64,
}

/// States by stream. What was not used for longest leaves first (a clock: second chance).
pub(super) struct Cache<S> {
    entries: HashMap<StreamId, Entry<S>>,
    order: VecDeque<(StreamId, u64)>,
    capacity: usize,
    /// Of all entries together, and how much of it is kept.
    weight: usize,
    most_weight: usize,
    next: u64,
}

impl<S> Cache<S> {
    pub(super) fn new(capacity: usize, most_weight: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            capacity,
            weight: 0,
            most_weight,
            next: 0,
        }
    }

    pub(super) fn get(&self, stream: &StreamId) -> Option<(&S, u64)> {
        self.entries
            .get(stream)
            .map(|entry| (&entry.state, entry.version))
    }

    pub(super) fn entry(&mut self, stream: &StreamId) -> Option<&mut Entry<S>> {
        let entry = self.entries.get_mut(stream)?;
        entry.used = true;
        Some(entry)
    }

    pub(super) fn contains(&self, stream: &StreamId) -> bool {
        self.entries.contains_key(stream)
    }

    pub(super) fn insert(&mut self, stream: StreamId, state: S, version: u64, snapshot: u64) {
        self.next += 1;
        self.order.push_back((stream.clone(), self.next));
        let entry = Entry {
            state,
            version,
            snapshot,
            round: 0,
            presumed: false,
            used: false,
            weight: 0,
            id: self.next,
        };
        if let Some(old) = self.entries.insert(stream, entry) {
            self.weight -= old.weight;
        }
    }

    /// What a state weighs now.
    pub(super) fn weigh(&mut self, stream: &StreamId, weight: usize) {
        if let Some(entry) = self.entries.get_mut(stream) {
            self.weight = self.weight - entry.weight + weight;
            entry.weight = weight;
        }
    }

    /// A stream that is probably new.
    pub(super) fn presume(&mut self, stream: StreamId, initial: S) {
        self.insert(stream.clone(), initial, 0, 0);
        if let Some(entry) = self.entries.get_mut(&stream) {
            entry.presumed = true;
        }
    }

    /// Whether the stream was never looked at.
    pub(super) fn is_presumed(&self, stream: &StreamId) -> bool {
        self.entries.get(stream).is_some_and(|entry| entry.presumed)
    }

    pub(super) fn remove(&mut self, stream: &StreamId) {
        if let Some(entry) = self.entries.remove(stream) {
            self.weight -= entry.weight;
        }
    }

    pub(super) fn clear(&mut self) {
        self.weight = 0;
        self.entries.clear();
        self.order.clear();
    }

    /// Drops what is too much.
    pub(super) fn shrink(&mut self) {
        while self.entries.len() > self.capacity || self.weight > self.most_weight {
            let Some((stream, id)) = self.order.pop_front() else {
                break;
            };
            match self.entries.get_mut(&stream) {
                Some(entry) if entry.id == id && entry.used => {
                    entry.used = false;
                    self.order.push_back((stream, id));
                }
                Some(entry) if entry.id == id => self.remove(&stream),
                _ => {}
            }
        }
        // Forgotten streams leave their places behind.
        if self.order.len() > 2 * self.entries.len() + 1024 {
            let entries = &self.entries;
            self.order
                .retain(|(stream, id)| entries.get(stream).is_some_and(|entry| entry.id == *id));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(number: u32) -> StreamId {
        StreamId::of("s", number)
    }

    #[test]
    fn what_was_not_used_leaves_first() {
        let mut cache = Cache::new(2, 0);
        for number in 0..3 {
            cache.insert(stream(number), number, 1, 0);
        }
        cache.entry(&stream(0));
        cache.shrink();
        assert!(
            cache.contains(&stream(0)) && !cache.contains(&stream(1)) && cache.contains(&stream(2))
        );
    }

    #[test]
    fn what_is_heavy_leaves_as_well() {
        let mut cache = Cache::new(10, 100);
        for number in 0..3 {
            cache.insert(stream(number), number, 1, 0);
            cache.weigh(&stream(number), 40);
        }
        cache.shrink();
        assert_eq!((cache.len(), cache.weight), (2, 80));
        assert!(!cache.contains(&stream(0)));
        // Lighter by now, and known anew.
        cache.weigh(&stream(1), 1);
        cache.insert(stream(2), 2, 2, 0);
        assert_eq!(cache.weight, 1);
        cache.remove(&stream(1));
        assert_eq!(cache.weight, 0);
    }

    #[test]
    fn forgotten_streams_leave_nothing_behind() {
        let mut cache = Cache::new(10, 0);
        for number in 0..10_000 {
            cache.insert(stream(number % 7), number, 1, 0);
            cache.remove(&stream(number % 7));
            cache.shrink();
        }
        assert_eq!(cache.len(), 0);
        assert!(cache.order.len() <= 1025);
    }
}
