//! A ledger on the disk.

use std::sync::{Arc, MutexGuard};

use super::{Disk, DiskScript, Fate, Fault, SimulatedDisk, script};
use crate::sql::{Connection, Sql, Tx, at_once};
use crate::store::sqlite::SqliteStore;
use crate::store::{
    AppendError, Batch, BoxFuture, Durability, EventRest, Loaded, Prune, Pruned, Store,
};
use crate::{Error, Recorded, StreamId, params};

/// A ledger on a simulated disk.
pub(crate) struct SimulatedStore {
    pub(super) disk: SimulatedDisk,
    pub(super) tables: Arc<SqliteStore>,
    pub(super) reader: Sql,
    pub(super) life: u64,
}

impl SimulatedStore {
    /// The disk, unless it has crashed since this ledger was opened.
    fn alive(&self) -> Result<MutexGuard<'_, Disk>, Error> {
        let disk = self.disk.lock();
        if disk.life == self.life {
            Ok(disk)
        } else {
            Err(Error::Simulated("the machine has crashed"))
        }
    }

    fn script(&self) -> Option<&Arc<dyn DiskScript>> {
        self.disk.disk.script.as_ref()
    }

    /// Why a batch cannot be written now.
    fn refusal(&self, disk: &Disk, batch: &Batch) -> Option<AppendError> {
        if disk.full {
            return Some(AppendError::Failed(Error::Full {
                database: self.name(),
            }));
        }
        disk.stale(batch)
    }

    async fn write(&self, batch: &Batch) -> Result<u64, AppendError> {
        let fate = match self.script() {
            None => Fate::default(),
            Some(script) => {
                drop(self.alive()?);
                script.begin()
            }
        };
        script::pause(fate.before).await;
        if let Some(refusal) = {
            let disk = self.alive()?;
            self.refusal(&disk, batch)
        } {
            return Err(refusal);
        }
        // Written, but neither visible nor durable until the sync.
        let mut syncing = self.disk.disk.syncing.subscribe();
        let _ = syncing.wait_for(|syncing| *syncing).await;
        let (first, fault, taken) = {
            let mut disk = self.alive()?;
            let fault = disk.faults.pop_front().or(fate.fault);
            if fault == Some(Fault::BeforeTaking) {
                return Err(AppendError::Failed(Error::Simulated("the commit failed")));
            }
            let first = disk.take(batch);
            let after = disk.log.len() - batch.events.len();
            let taken: Vec<Recorded> = match self.script() {
                None => Vec::new(),
                Some(_) => disk.log[after..]
                    .iter()
                    .map(|(event, _)| event.clone())
                    .collect(),
            };
            (first, fault, taken)
        };
        if let Some(script) = self.script() {
            script.taken(&taken);
        }
        script::pause(fate.after).await;
        if fault == Some(Fault::AfterTaking) {
            return Err(AppendError::Failed(Error::Simulated(
                "the commit was not answered",
            )));
        }
        self.store_cursors(batch).await?;
        self.known(batch, first)?;
        Ok(first)
    }

    /// The one who wrote learns that it is durable.
    fn known(&self, batch: &Batch, first: u64) -> Result<(), Error> {
        if let Some(script) = self.script() {
            drop(self.alive()?);
            script.known(first + batch.events.len() as u64 - 1);
        }
        Ok(())
    }

    async fn store_cursors(&self, batch: &Batch) -> Result<(), Error> {
        if batch.cursors.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin(Durability::Now).await?;
        for cursor in &batch.cursors {
            tx.execute(
                "INSERT INTO ledger_cursors (consumer, log_id, position) VALUES ($1, $2, $3) \
                 ON CONFLICT (consumer) DO UPDATE SET log_id = excluded.log_id, position = excluded.position",
                params![&cursor.consumer, &cursor.log_id, cursor.position],
            )
            .await?;
        }
        self.commit(tx).await
    }
}

impl Store for SimulatedStore {
    fn log_id(&self) -> Arc<str> {
        Arc::clone(&self.disk.lock().log_id)
    }

    fn name(&self) -> String {
        "the simulated disk".into()
    }

    fn exclusive(&self) -> bool {
        true
    }

    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<u64, AppendError>> {
        Box::pin(self.write(batch))
    }

    fn find<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            let found = self.alive()?.batches.get(&batch.id).copied();
            if let Some(first) = found {
                self.store_cursors(batch).await?;
                self.known(batch, first)?;
            }
            Ok(found)
        })
    }

    fn load<'a>(
        &'a self,
        streams: &'a [StreamId],
        snapshots: bool,
    ) -> BoxFuture<'a, Result<Vec<Loaded>, Error>> {
        Box::pin(async move {
            let mut disk = self.alive()?;
            if disk.failing_loads > 0 {
                disk.failing_loads -= 1;
                return Err(Error::Simulated("streams cannot be read"));
            }
            Ok(streams
                .iter()
                .map(|stream| disk.load(stream, snapshots))
                .collect())
        })
    }

    fn tail<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
    ) -> BoxFuture<'a, Result<Vec<EventRest>, Error>> {
        Box::pin(async move {
            let mut events = self.alive()?.load(stream, false).events;
            events.retain(|(version, ..)| *version > after);
            Ok(events)
        })
    }

    fn inbox<'a>(
        &'a self,
        keys: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<(String, Vec<u8>)>, Error>> {
        Box::pin(async move {
            let disk = self.alive()?;
            let rows = keys
                .iter()
                .filter_map(|key| disk.inbox.get_key_value(&**key));
            Ok(rows
                .map(|(key, (value, _))| (key.clone(), value.to_vec()))
                .collect())
        })
    }

    fn read(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        Box::pin(async move {
            let disk = self.alive()?;
            Ok(disk
                .log
                .iter()
                .skip(after as usize)
                .take(limit)
                .map(|(event, _)| event.clone())
                .collect())
        })
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move { Ok(self.alive()?.log.len() as u64) })
    }

    fn streams<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StreamId>, Error>> {
        Box::pin(async move {
            let disk = self.alive()?;
            let matching = disk
                .versions
                .keys()
                .filter(|stream| stream.as_str() > after && stream.as_str().starts_with(prefix));
            Ok(matching.take(limit).cloned().collect())
        })
    }

    fn begin(&self, durability: Durability) -> BoxFuture<'_, Result<Tx, Error>> {
        Box::pin(async move {
            drop(self.alive()?);
            let on_the_spot = self.script().is_some();
            let mut tx = at_once(on_the_spot, self.tables.begin(durability)).await?;
            if let Connection::Sqlite(writer) = &mut tx.0 {
                writer.at_once = on_the_spot;
            }
            Ok(tx)
        })
    }

    fn commit(&self, tx: Tx) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            drop(self.alive()?);
            at_once(self.script().is_some(), self.tables.commit(tx)).await
        })
    }

    fn reader(&self) -> Sql {
        self.reader.clone()
    }

    fn prune_inbox(&self, prune: Prune) -> BoxFuture<'_, Result<Pruned, Error>> {
        Box::pin(async move {
            self.alive()?.inbox.retain(|key, (_, at)| {
                let before = match key.starts_with("barrier/") {
                    true => prune.barriers_before,
                    false => prune.others_before,
                };
                *at >= before
            });
            Ok(Pruned {
                after: 0,
                more: false,
            })
        })
    }

    fn maintain(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
