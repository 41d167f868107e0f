//! A simulated disk for tests: it loses unsynced writes on a crash, fails a commit before or after it took, and runs full.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

mod script;
mod store;

use super::sqlite::SqliteStore;
use super::{AppendError, Batch, Loaded, SnapshotRow, Store};
use crate::sql::{Sql, at_once};
use crate::{Error, Recorded, StreamId};

pub use script::{DiskScript, Fate, Fault};
pub(crate) use store::SimulatedStore;

/// A disk that a test breaks. Clones are the same disk; ledgers opened on it one after the other find what was synced.
///
/// Events, inbox and snapshots live in memory; the tables of projections in a temporary SQLite file.
#[derive(Clone)]
pub struct SimulatedDisk {
    disk: Arc<Shared>,
}

struct Shared {
    state: Mutex<Disk>,
    /// False while syncs are held.
    syncing: watch::Sender<bool>,
    tables: tokio::sync::OnceCell<(Arc<SqliteStore>, Sql)>,
    file: PathBuf,
    /// Decides and sees what happens, in a simulation.
    script: Option<Arc<dyn DiskScript>>,
}

struct Disk {
    log_id: Arc<str>,
    log: Vec<(Recorded, Uuid)>,
    inbox: BTreeMap<String, (Arc<[u8]>, i64)>,
    snapshots: BTreeMap<StreamId, (u64, Vec<u8>)>,
    versions: BTreeMap<StreamId, Vec<u64>>,
    batches: BTreeMap<Uuid, u64>,
    faults: VecDeque<Fault>,
    /// So many reads of streams fail.
    failing_loads: u32,
    full: bool,
    /// Raised by a crash: ledgers opened before it are dead.
    life: u64,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedDisk")
    }
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// An empty disk whose commits are decided by `script`. Its tables take no time: see [`DiskScript`].
    pub fn scripted(script: Arc<dyn DiskScript>) -> Self {
        Self::with(Some(script))
    }

    fn with(script: Option<Arc<dyn DiskScript>>) -> Self {
        let id = Uuid::now_v7();
        let state = Disk {
            log_id: id.to_string().into(),
            log: Vec::new(),
            inbox: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            versions: BTreeMap::new(),
            batches: BTreeMap::new(),
            faults: VecDeque::new(),
            failing_loads: 0,
            full: false,
            life: 0,
        };
        // Nothing in the tables must outlive the process; in memory they need no flushes.
        let memory = PathBuf::from("/dev/shm");
        let folder = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        let file = folder.join(format!("sagamesh-simulated-{id}.db"));
        let shared = Shared {
            state: Mutex::new(state),
            syncing: watch::Sender::new(true),
            tables: tokio::sync::OnceCell::new(),
            file,
            script,
        };
        Self {
            disk: Arc::new(shared),
        }
    }

    /// The next commit fails and has not taken.
    pub fn fail_before_commit(&self) {
        self.lock().faults.push_back(Fault::BeforeTaking);
    }

    /// The next commit takes, and its answer is lost.
    pub fn fail_after_commit(&self) {
        self.lock().faults.push_back(Fault::AfterTaking);
    }

    /// The next reads of streams fail.
    pub fn fail_loads(&self, count: u32) {
        self.lock().failing_loads = count;
    }

    /// Whether there is no space left.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Commits written from now on are not synced, and not answered, until [`release_syncs`](Self::release_syncs).
    pub fn hold_syncs(&self) {
        self.disk.syncing.send_replace(false);
    }

    /// Syncs what was held.
    pub fn release_syncs(&self) {
        self.disk.syncing.send_replace(true);
    }

    /// The machine loses power: what was not synced is gone, and ledgers that are open fail from now on.
    pub fn crash(&self) {
        self.lock().life += 1;
        self.disk.syncing.send_replace(true);
    }

    /// How many events are durable.
    pub fn durable_events(&self) -> usize {
        self.lock().log.len()
    }

    /// Every durable event, in order.
    pub fn events(&self) -> Vec<Recorded> {
        let disk = self.lock();
        disk.log.iter().map(|(event, _)| event.clone()).collect()
    }

    /// An inbox row, if it is there.
    pub fn inbox_row(&self, key: &str) -> Option<Vec<u8>> {
        let disk = self.lock();
        disk.inbox.get(key).map(|(value, _)| value.to_vec())
    }

    pub(crate) async fn open(&self) -> Result<SimulatedStore, Error> {
        let tables = self
            .disk
            .tables
            .get_or_try_init(|| async {
                let on_the_spot = self.disk.script.is_some();
                let open = SqliteStore::open(&self.disk.file);
                let store = at_once(on_the_spot, open).await?;
                let reader = match on_the_spot {
                    true => at_once(true, store.reader_at_once()).await?,
                    false => store.reader(),
                };
                Ok::<_, Error>((Arc::new(store), reader))
            })
            .await?;
        Ok(SimulatedStore {
            disk: self.clone(),
            tables: Arc::clone(&tables.0),
            reader: tables.1.clone(),
            life: self.lock().life,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let mut name = self.file.clone().into_os_string();
            name.push(suffix);
            // Temporary files; whatever is left is the system's to clean.
            let _ = std::fs::remove_file(name);
        }
    }
}

impl Disk {
    fn stale(&self, batch: &Batch) -> Option<AppendError> {
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
        (!streams.is_empty() || !keys.is_empty()).then_some(AppendError::Stale {
            streams,
            keys,
            shards: Vec::new(),
        })
    }

    fn take(&mut self, batch: &Batch) -> u64 {
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

    fn load(&self, stream: &StreamId, snapshots: bool) -> Loaded {
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
