//! A simulated disk for tests: it loses unsynced writes on a crash, fails a commit before or after it took, and runs full.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

mod disk;
mod lease_table;
mod leases;
mod requests;
mod script;
mod store;

use super::Store as _;
use super::sqlite::SqliteStore;
use crate::sql::{Sql, at_once};
use crate::{Error, Recorded};
use disk::Disk;

pub use script::{DiskScript, Fate, Fault, Mistake};
pub(crate) use store::SimulatedStore;

/// A disk that a test breaks. Clones are the same disk; ledgers opened on it one after the other find what was synced.
///
/// Events, inbox, snapshots and leases live in memory; the tables of projections in a temporary SQLite file.
#[derive(Clone)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
    /// Decides and sees what happens, in a simulation.
    script: Option<Arc<dyn DiskScript>>,
}

struct Shared {
    /// Several processes have it open, and it is not in the machine of any of them.
    database: bool,
    state: Mutex<Disk>,
    /// Notified when syncs are released, and when power is lost.
    synced: Notify,
    /// Whoever has it writes, as with the row that counts positions in PostgreSQL.
    turn: tokio::sync::Mutex<()>,
    tables: tokio::sync::OnceCell<(Arc<SqliteStore>, Sql)>,
    file: PathBuf,
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
        Self::empty(false)
    }

    /// An empty database that several processes may have open at once, as they may a PostgreSQL. It is a machine of its own: when it crashes, what is under
    /// way fails, and those that have it open go on once it is there again.
    pub fn database() -> Self {
        Self::empty(true)
    }

    /// The same disk for a process whose commits are decided by `script`. Its tables take no time: see [`DiskScript`].
    pub fn scripted(&self, script: Arc<dyn DiskScript>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            script: Some(script),
        }
    }

    fn empty(database: bool) -> Self {
        let id = Uuid::now_v7();
        // Nothing in the tables must outlive the process; in memory they need no flushes.
        let memory = PathBuf::from("/dev/shm");
        let folder = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        let shared = Shared {
            database,
            state: Mutex::new(Disk::new(id)),
            synced: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            tables: tokio::sync::OnceCell::new(),
            file: folder.join(format!("sagamesh-simulated-{id}.db")),
        };
        Self {
            shared: Arc::new(shared),
            script: None,
        }
    }

    /// Whether several processes may have it open at once.
    pub fn is_database(&self) -> bool {
        self.shared.database
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
        self.lock().syncing = false;
    }

    /// Syncs what was held.
    pub fn release_syncs(&self) {
        self.lock().syncing = true;
        self.shared.synced.notify_waiters();
    }

    /// The machine loses power: what was not synced is gone, and ledgers that are open fail from now on. Those on a database fail in what they are doing.
    pub fn crash(&self) {
        self.lock().life += 1;
        self.release_syncs();
    }

    /// The leases of this replica run out, now.
    pub fn expire(&self, replica: &str) {
        self.lock().leases.expire(replica);
    }

    /// Who owns a shard: the replica that took it last, if its lease has not run out.
    pub fn owner(&self, shard: i64) -> Option<String> {
        self.lock().leases.owner(shard).map(str::to_owned)
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
            .shared
            .tables
            .get_or_try_init(|| async {
                let on_the_spot = self.script.is_some();
                let open = SqliteStore::open(&self.shared.file);
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
            reader: tables.1.asking(self),
            life: self.lock().life,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.shared
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
