//! A ledger on the disk.

use std::sync::{Arc, MutexGuard};

use super::lease_table::SimulatedLeases;
use super::{Disk, DiskScript, Fate, Fault, SimulatedDisk, script};
use crate::shards::LeaseTable;
use crate::sql::{Sql, Tx, at_once};
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
    /// The disk, unless this ledger was on a machine that has crashed since.
    fn alive(&self) -> Result<MutexGuard<'_, Disk>, Error> {
        match self.disk.is_database() {
            true => Ok(self.disk.lock()),
            false => self.disk.at(self.life),
        }
    }

    /// Asks something.
    async fn ask<T>(&self, question: impl FnOnce(&mut Disk) -> T) -> Result<T, Error> {
        drop(self.alive()?);
        self.disk.ask(question).await
    }

    fn script(&self) -> Option<&Arc<dyn DiskScript>> {
        self.disk.script.as_ref()
    }

    /// Why a batch cannot be written now.
    fn refusal(&self, disk: &Disk, batch: &Batch) -> Option<AppendError> {
        if disk.full && !batch.is_empty() {
            return Some(AppendError::Failed(Error::Full {
                database: self.name(),
            }));
        }
        disk.stale(batch, self.disk.checks_leases())
    }

    async fn write(&self, batch: &Batch) -> Result<u64, AppendError> {
        drop(self.alive()?);
        let fate = match self.script().filter(|_| !batch.is_empty()) {
            None => Fate::default(),
            Some(script) => script.begin(),
        };
        let there = self.disk.bring(None).await?;
        // A disk of its own writes nothing any more for a process that was stopped a moment ago. A database has the request by now.
        let life = match self.disk.is_database() {
            true => there,
            false => self.life,
        };
        let written = self.write_there(batch, life, fate).await;
        if matches!(written, Err(AppendError::Failed(_))) {
            return written;
        }
        self.disk.answer(None).await?;
        let first = written?;
        self.store_cursors(batch).await?;
        self.known(batch, first)?;
        Ok(first)
    }

    /// Checks and writes, where the disk is.
    async fn write_there(&self, batch: &Batch, life: u64, fate: Fate) -> Result<u64, AppendError> {
        if batch.is_empty() {
            let disk = self.disk.at(life)?;
            let confirmed = disk.log.len() as u64 + 1;
            return self.refusal(&disk, batch).map_or(Ok(confirmed), Err);
        }
        let turn = self.disk.turn("ledger_append").await;
        if let Some(refusal) = {
            let disk = self.disk.at(life)?;
            self.refusal(&disk, batch)
        } {
            return Err(refusal);
        }
        script::pause(fate.before).await;
        self.disk.synced("ledger_append").await;
        let (first, fault, taken) = {
            let mut disk = self.disk.at(life)?;
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
        drop(turn);
        script::pause(fate.after).await;
        if fault == Some(Fault::AfterTaking) {
            return Err(AppendError::Failed(Error::Simulated(
                "the commit was not answered",
            )));
        }
        Ok(first)
    }

    /// The one who wrote learns that it is durable.
    fn known(&self, batch: &Batch, first: u64) -> Result<(), Error> {
        if let Some(script) = self.script().filter(|_| !batch.is_empty()) {
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
        !self.disk.is_database()
    }

    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<u64, AppendError>> {
        Box::pin(self.write(batch))
    }

    fn find<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            drop(self.alive()?);
            let life = self.disk.bring(None).await?;
            let turn = self.disk.turn("ledger_writers").await;
            let found = self.disk.at(life)?.batches.get(&batch.id).copied();
            drop(turn);
            self.disk.answer(None).await?;
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
            let load = |disk: &mut Disk| {
                if disk.failing_loads > 0 {
                    disk.failing_loads -= 1;
                    return Err(Error::Simulated("streams cannot be read"));
                }
                let streams = streams.iter();
                Ok(streams.map(|stream| disk.load(stream, snapshots)).collect())
            };
            self.ask(load).await?
        })
    }

    fn tail<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
    ) -> BoxFuture<'a, Result<Vec<EventRest>, Error>> {
        Box::pin(async move {
            let mut events = self.ask(|disk| disk.load(stream, false).events).await?;
            events.retain(|(version, ..)| *version > after);
            Ok(events)
        })
    }

    fn inbox<'a>(
        &'a self,
        keys: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<(String, Vec<u8>)>, Error>> {
        Box::pin(async move {
            let look = |disk: &mut Disk| {
                let keys = keys.iter();
                let rows = keys.filter_map(|key| disk.inbox.get_key_value(&**key));
                rows.map(|(key, (value, _))| (key.clone(), value.to_vec()))
                    .collect()
            };
            self.ask(look).await
        })
    }

    fn read(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        Box::pin(async move {
            let read = |disk: &mut Disk| {
                let events = disk.log.iter().skip(after as usize).take(limit);
                events.map(|(event, _)| event.clone()).collect()
            };
            self.ask(read).await
        })
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move { self.ask(|disk| disk.log.len() as u64).await })
    }

    fn streams<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StreamId>, Error>> {
        Box::pin(async move {
            let list = |disk: &mut Disk| {
                let matches = |stream: &&StreamId| {
                    stream.as_str() > after && stream.as_str().starts_with(prefix)
                };
                let matching = disk.versions.keys().filter(matches);
                matching.take(limit).cloned().collect()
            };
            self.ask(list).await
        })
    }

    fn begin(&self, durability: Durability) -> BoxFuture<'_, Result<Tx, Error>> {
        Box::pin(async move {
            self.ask(|_| ()).await?;
            match self.script() {
                Some(_) => self.tables.begin_at_once(durability).await,
                None => self.tables.begin(durability).await,
            }
        })
    }

    fn commit(&self, tx: Tx) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.ask(|_| ()).await?;
            at_once(self.script().is_some(), self.tables.commit(tx)).await
        })
    }

    fn reader(&self) -> Sql {
        self.reader.clone()
    }

    fn leases(&self) -> Option<Arc<dyn LeaseTable>> {
        let leases = SimulatedLeases(self.disk.clone());
        self.disk
            .is_database()
            .then(|| Arc::new(leases) as Arc<dyn LeaseTable>)
    }

    fn prune_inbox(&self, prune: Prune) -> BoxFuture<'_, Result<Pruned, Error>> {
        Box::pin(async move {
            let prune = |disk: &mut Disk| {
                disk.inbox.retain(|key, (_, at)| {
                    let before = match key.starts_with("barrier/") {
                        true => prune.barriers_before,
                        false => prune.others_before,
                    };
                    *at >= before
                });
            };
            self.ask(prune).await?;
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
