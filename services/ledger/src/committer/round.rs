//! What was decided in one round, until it is durable.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chassis::Env;
use uuid::Uuid;

use super::cache::Cache;
use super::{Tainted, Waiting};
use crate::decider::{Decider, Decision, Fence};
use crate::store::{Batch, EventRow, SnapshotRow};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A command with its decision.
pub(super) struct Decided<D: Decider> {
    pub(super) waiting: Waiting<D>,
    pub(super) result: Result<D::Reply, D::Rejection>,
    pub(super) events: Range<usize>,
    inbox: Range<usize>,
    cursors: Range<usize>,
    fence: Option<Fence>,
}

/// One round: the batch, and who waits for it.
pub(super) struct Round<D: Decider> {
    pub(super) batch: Batch,
    pub(super) decided: Vec<Decided<D>>,
    pub(super) events: Vec<D::Event>,
    id: u64,
    buffer: Vec<u8>,
}

impl<D: Decider> Round<D> {
    pub(super) fn new(env: &Env, snapshots: Vec<SnapshotRow>) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&env.entropy.next_u64().to_be_bytes());
        id[8..].copy_from_slice(&env.entropy.next_u64().to_be_bytes());
        let batch = Batch {
            id: uuid::Builder::from_random_bytes(id).into_uuid(),
            commit_millis: env.clock.now_millis(),
            events: Vec::new(),
            inbox: Vec::new(),
            cursors: Vec::new(),
            snapshots,
            expected: Vec::new(),
            absent: Vec::new(),
            fences: Vec::new(),
        };
        Self {
            batch,
            decided: Vec::new(),
            events: Vec::new(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            buffer: Vec::new(),
        }
    }

    /// Notes on which versions a command is decided.
    pub(super) fn touch<S>(
        &mut self,
        waiting: &Waiting<D>,
        cache: &mut Cache<S>,
        inbox: &HashMap<Arc<str>, Option<Arc<[u8]>>>,
    ) {
        for stream in &waiting.streams {
            if let Some(entry) = cache.entry(stream)
                && entry.round != self.id
            {
                entry.round = self.id;
                self.batch.expected.push((stream.clone(), entry.version));
            }
        }
        for key in &waiting.keys {
            if matches!(inbox.get(key), Some(None)) {
                self.batch.absent.push(Arc::clone(key));
            }
        }
    }

    /// Takes a decision into the batch and applies its events to the cached states.
    pub(super) fn add(
        &mut self,
        waiting: Waiting<D>,
        result: Result<Decision<D::Event, D::Reply>, D::Rejection>,
        decider: &D,
        cache: &mut Cache<D::State>,
        inbox: &mut HashMap<Arc<str>, Option<Arc<[u8]>>>,
    ) {
        let batch = &mut self.batch;
        let (events, rows, cursors) = (batch.events.len(), batch.inbox.len(), batch.cursors.len());
        let mut fence = None;
        let result = result.map(|decision| {
            fence = decision.fence.filter(|_| !decision.events.is_empty());
            for (stream, event) in decision.events {
                let Some(entry) = cache.entry(&stream) else {
                    continue;
                };
                self.buffer.clear();
                let type_name = decider.encode(&event, &mut self.buffer);
                decider.evolve(&mut entry.state, &event);
                entry.version += 1;
                entry.presumed = false;
                batch.events.push(EventRow {
                    stream,
                    version: entry.version,
                    type_name,
                    data: Arc::from(&*self.buffer),
                });
                self.events.push(event);
            }
            for (key, value) in decision.inbox {
                let (key, value): (Arc<str>, Arc<[u8]>) = (key.into(), value.into());
                inbox.insert(Arc::clone(&key), Some(Arc::clone(&value)));
                batch.inbox.push((key, value));
            }
            batch.cursors.extend(decision.cursor);
            decision.reply
        });
        if let Some(fence) = fence
            && !batch.fences.contains(&fence)
        {
            batch.fences.push(fence);
        }
        self.decided.push(Decided {
            waiting,
            result,
            events: events..batch.events.len(),
            inbox: rows..batch.inbox.len(),
            cursors: cursors..batch.cursors.len(),
            fence,
        });
    }

    /// Takes the commands that looked at stale streams or keys, or that were decided under a lost lease, out of the batch, and whatever was
    /// decided on top of them. They are returned in order; everything that they touched is in `tainted` afterwards.
    pub(super) fn remove_stale(&mut self, tainted: &mut Tainted, lost: &[i64]) -> Vec<Waiting<D>> {
        let decided = std::mem::take(&mut self.decided);
        let batch = &mut self.batch;
        let mut rows = std::mem::take(&mut batch.events)
            .into_iter()
            .map(Some)
            .collect::<Vec<_>>();
        let mut inbox = std::mem::take(&mut batch.inbox)
            .into_iter()
            .map(Some)
            .collect::<Vec<_>>();
        let mut cursors = std::mem::take(&mut batch.cursors)
            .into_iter()
            .map(Some)
            .collect::<Vec<_>>();
        let mut events = std::mem::take(&mut self.events)
            .into_iter()
            .map(Some)
            .collect::<Vec<_>>();
        let mut dropped = Vec::new();
        for mut one in decided {
            let stale = one
                .waiting
                .streams
                .iter()
                .any(|stream| tainted.0.contains(stream))
                || one.waiting.keys.iter().any(|key| tainted.1.contains(key))
                || one.fence.is_some_and(|fence| lost.contains(&fence.shard));
            if stale {
                tainted.0.extend(one.waiting.streams.iter().cloned());
                tainted.1.extend(one.waiting.keys.iter().cloned());
                dropped.push(one.waiting);
                continue;
            }
            let starts = (batch.events.len(), batch.inbox.len(), batch.cursors.len());
            batch
                .events
                .extend(rows[one.events.clone()].iter_mut().filter_map(Option::take));
            self.events.extend(
                events[one.events.clone()]
                    .iter_mut()
                    .filter_map(Option::take),
            );
            batch
                .inbox
                .extend(inbox[one.inbox.clone()].iter_mut().filter_map(Option::take));
            batch.cursors.extend(
                cursors[one.cursors.clone()]
                    .iter_mut()
                    .filter_map(Option::take),
            );
            one.events = starts.0..batch.events.len();
            one.inbox = starts.1..batch.inbox.len();
            one.cursors = starts.2..batch.cursors.len();
            self.decided.push(one);
        }
        let kept = &self.decided;
        batch
            .expected
            .retain(|(stream, _)| kept.iter().any(|one| one.waiting.streams.contains(stream)));
        batch
            .absent
            .retain(|key| kept.iter().any(|one| one.waiting.keys.contains(key)));
        batch
            .fences
            .retain(|fence| kept.iter().any(|one| one.fence == Some(*fence)));
        batch.snapshots.clear();
        // Another transaction than the one that was refused.
        let (high, low) = batch.id.as_u64_pair();
        batch.id = Uuid::from_u64_pair(high, low.wrapping_add(1));
        dropped
    }
}
