//! What is on the disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::Fault;
use super::leases::Leases;
use super::requests::Waiting;
use crate::store::{AppendError, Batch, Loaded, SnapshotRow};
use crate::{Recorded, StreamId};

pub(super) struct Disk {
    pub(super) log_id: Arc<str>,
    pub(super) log: Vec<(Recorded, Uuid)>,
    pub(super) inbox: BTreeMap<String, (Arc<[u8]>, i64)>,
    pub(super) snapshots: BTreeMap<StreamId, (u64, Vec<u8>)>,
    pub(super) versions: BTreeMap<StreamId, Vec<u64>>,
    pub(super) batches: BTreeMap<Uuid, u64>,
    pub(super) leases: Leases,
    pub(super) faults: VecDeque<Fault>,
    /// So many reads of streams fail.
    pub(super) failing_loads: u32,
    pub(super) full: bool,
    /// False while syncs are held.
    pub(super) syncing: bool,
    pub(super) waiting: Vec<Waiting>,
    /// Raised by a crash: ledgers opened before it are dead.
    pub(super) life: u64,
}

impl Disk {
    pub(super) fn new(id: Uuid) -> Self {
        Self {
            log_id: id.to_string().into(),
            log: Vec::new(),
            inbox: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            versions: BTreeMap::new(),
            batches: BTreeMap::new(),
            leases: Leases::default(),
            faults: VecDeque::new(),
            failing_loads: 0,
            full: false,
            syncing: true,
            waiting: Vec::new(),
            life: 0,
        }
    }

    /// What was decided on something that is not so any more.
    pub(super) fn stale(&self, batch: &Batch, leases: bool) -> Option<AppendError> {
        let version = |stream| self.versions.get(stream).map_or(0, Vec::len) as u64;
        let changed = batch
            .expected
            .iter()
            .filter(|(stream, expected)| version(stream) != *expected);
        let streams: Vec<_> = changed.map(|(stream, _)| stream.clone()).collect();
        let exists = batch
            .absent
            .iter()
            .filter(|key| self.inbox.contains_key(&***key));
        let keys: Vec<_> = exists.map(|key| key.to_string()).collect();
        let shards = match leases {
            true => self.leases.lost(&batch.fences, Instant::now()),
            false => Vec::new(),
        };
        let stale = !streams.is_empty() || !keys.is_empty() || !shards.is_empty();
        stale.then_some(AppendError::Stale {
            streams,
            keys,
            shards,
        })
    }

    pub(super) fn take(&mut self, batch: &Batch) -> u64 {
        let first = self.log.len() as u64 + 1;
        for (at, row) in batch.events.iter().enumerate() {
            let position = first + at as u64;
            self.versions
                .entry(row.stream.clone())
                .or_default()
                .push(position);
            let recorded = Recorded {
                position,
                stream: row.stream.clone(),
                version: row.version,
                type_name: row.type_name.into(),
                data: row.data.clone(),
                commit_millis: batch.commit_millis,
            };
            self.log.push((recorded, batch.id));
        }
        for (key, value) in &batch.inbox {
            self.inbox
                .insert(key.to_string(), (value.clone(), batch.commit_millis));
        }
        for SnapshotRow {
            stream,
            version,
            data,
        } in &batch.snapshots
        {
            self.snapshots
                .insert(stream.clone(), (*version, data.clone()));
        }
        self.batches.insert(batch.id, first);
        first
    }

    pub(super) fn load(&self, stream: &StreamId, snapshots: bool) -> Loaded {
        let snapshot = self.snapshots.get(stream).filter(|_| snapshots).cloned();
        let after = snapshot.as_ref().map_or(0, |(version, _)| *version);
        let positions = self
            .versions
            .get(stream)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let events = positions
            .iter()
            .skip(after as usize)
            .map(|position| &self.log[*position as usize - 1].0)
            .map(|event| {
                (
                    event.version,
                    event.type_name.to_string(),
                    event.data.to_vec(),
                )
            })
            .collect();
        Loaded {
            stream: stream.clone(),
            snapshot,
            events,
        }
    }
}
