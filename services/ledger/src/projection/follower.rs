//! One projection's task.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Progress, Projection};
use crate::Error;
use crate::log::Log;
use crate::params;
use crate::sql::{Dialect, Tx};
use crate::store::{Durability, Store};

/// Commits wait for a chunk at most about this long, as long as the projection keeps up.
const CHUNK_TIME: Duration = Duration::from_millis(3);
/// Where commits do not wait for it, whoever waits for the projection does.
const SHARED_CHUNK_TIME: Duration = Duration::from_millis(50);
const SMALLEST_CHUNK: usize = 8;
const LARGEST_CHUNK: usize = 4096;
/// Further behind than this, a chunk may take longer in proportion: commits slow down until the projection keeps up. What it is behind is what
/// the next start waits for.
const BEHIND: u64 = 4096;
/// When a chunk was larger than this, more is on its way: the next one waits so long for it, which saves transactions.
const BUSY: usize = 16;
/// Long enough that what begins and ends under load is mostly one row written once. Whoever waits for a position cuts it short.
const LINGER: Duration = Duration::from_millis(20);
/// One replica writes the tables, and remembers what it wrote; how often the others look where it has got, and whether it still does.
const STANDBY: Duration = Duration::from_millis(100);
/// The same while somebody waits for a position.
const WANTED: Duration = Duration::from_millis(5);

pub(super) struct Follower {
    store: Arc<dyn Store>,
    log: Arc<Log>,
    projection: Box<dyn Projection>,
    progress: Arc<Progress>,
    chunk: usize,
    /// Another replica wrote the tables last.
    standby: bool,
    /// Since when the tables, which are a newer program's, do not move although they are behind.
    unmoved: Option<Instant>,
    /// After so long the newer program is gone.
    abandoned: Duration,
    lag: metrics::Gauge,
}

impl Follower {
    pub(super) fn new(
        store: Arc<dyn Store>,
        log: Arc<Log>,
        projection: Box<dyn Projection>,
        progress: Arc<Progress>,
        abandoned: Duration,
    ) -> Self {
        let lag = metrics::gauge!("ledger_projection_lag", "projection" => projection.name());
        Self {
            store,
            log,
            projection,
            progress,
            chunk: 64,
            standby: false,
            unmoved: None,
            abandoned,
            lag,
        }
    }

    /// Creates the tables, or makes them again when the version has changed. Where replicas share them, those of a newer version are
    /// left to whoever made them.
    pub(super) async fn prepare(&mut self) -> Result<(), Error> {
        let mut tx = self.store.begin(Durability::Now).await?;
        take_turns(&mut tx).await?;
        let stored = lock(&mut tx, self.projection.name()).await?;
        let (own, shared) = (self.projection.version(), !self.store.exclusive());
        if let Some((version, position)) = stored {
            self.standby = version > own && shared;
            if self.standby {
                tracing::info!(
                    projection = self.projection.name(),
                    version,
                    own,
                    "a newer program keeps these tables; this one reads them"
                );
            }
            if version == own || self.standby {
                self.progress.set(position);
                return self.store.commit(tx).await;
            }
        }
        self.recreate(&mut tx).await?;
        self.store.commit(tx).await?;
        self.progress.set(0);
        Ok(())
    }

    async fn recreate(&mut self, tx: &mut Tx) -> Result<(), Error> {
        for table in self.projection.tables() {
            tx.script(&format!("DROP TABLE IF EXISTS {table}")).await?;
        }
        for statement in self.projection.schema(tx.dialect()) {
            tx.script(statement).await?;
        }
        tx.execute(
            "INSERT INTO ledger_projections (name, version, position) VALUES ($1, $2, 0) \
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = 0",
            params![self.projection.name(), self.projection.version()],
        )
        .await?;
        Ok(())
    }

    /// Follows the log until it is told to stop.
    pub(super) async fn run(
        mut self,
        mut rebuild: mpsc::Receiver<oneshot::Sender<Result<(), Error>>>,
        stop: CancellationToken,
    ) {
        let mut head = self.log.watch();
        let mut pause = Duration::from_millis(10);
        let mut applied = 0;
        loop {
            head.mark_unchanged();
            let behind = self.log.head().saturating_sub(self.progress.get());
            self.lag.set(behind as f64);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = rebuild.recv() => {
                    let result = self.rebuild().await;
                    // The one who asked may have gone.
                    let _ = done.send(result);
                    continue;
                }
                () = std::future::ready(()), if behind > 0 => {}
                _ = head.changed() => {
                    self.unmoved = None;
                    continue;
                }
                // Whoever waits may have found that the tables are behind after all.
                () = self.progress.hurried() => continue,
            }
            if let Some(rest) = self.rest(applied, behind) {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(rest) => {}
                    () = self.progress.hurried() => {}
                    () = stop.cancelled() => return,
                }
            }
            let stepped = match self.standby {
                true => self.stand_by().await,
                false => self.step().await,
            };
            match stepped {
                Ok(count) => {
                    applied = count;
                    pause = Duration::from_millis(10);
                }
                Err(error) => {
                    self.projection.rolled_back();
                    // Nobody moves anything while the database is away.
                    self.unmoved = None;
                    // As far as it goes: what fails may be the last event of many.
                    self.chunk = (self.chunk / 2).max(1);
                    tracing::warn!(%error, projection = self.projection.name(), "a projection could not be written; it is tried again");
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// How long to wait before the next step.
    fn rest(&self, applied: usize, behind: u64) -> Option<Duration> {
        match (self.standby, self.progress.is_wanted()) {
            (true, true) => Some(WANTED),
            (true, false) => Some(STANDBY),
            (false, _) => (applied > BUSY && behind < self.chunk as u64).then_some(LINGER),
        }
    }

    /// Looks where another replica has got; goes on in its place once it stands still. Tables of a newer program are not gone on with:
    /// this one does not know all that belongs into them.
    async fn stand_by(&mut self) -> Result<usize, Error> {
        let sql = "SELECT version, position FROM ledger_projections WHERE name = $1";
        let reader = self.store.reader();
        let row = reader
            .fetch_optional(sql, params![self.projection.name()])
            .await?;
        let (version, stored) = match row {
            Some(row) => (row.get::<u32>(0)?, row.get(1)?),
            None => (0, 0),
        };
        let moved = stored != self.progress.get();
        self.progress.set(stored);
        if moved || version <= self.projection.version() {
            // Whoever moves tables of an older version has no business to.
            self.standby = moved && version >= self.projection.version();
            self.unmoved = None;
        } else if self.unmoved.get_or_insert_with(Instant::now).elapsed() >= self.abandoned {
            self.unmoved = None;
            self.take_back(version, stored).await?;
        }
        Ok(0)
    }

    /// The newer program was rolled back: the tables are made again as this one knows them, unless somebody moves them after all.
    async fn take_back(&mut self, version: u32, position: u64) -> Result<(), Error> {
        let mut tx = self.store.begin(Durability::Now).await?;
        take_turns(&mut tx).await?;
        if lock(&mut tx, self.projection.name()).await? == Some((version, position)) {
            tracing::warn!(
                projection = self.projection.name(),
                version,
                own = self.projection.version(),
                "the newer program that kept these tables is gone: they are made again as this one knows them"
            );
            self.projection.rolled_back();
            self.recreate(&mut tx).await?;
            self.progress.set(0);
            self.standby = false;
        }
        self.store.commit(tx).await
    }

    async fn rebuild(&mut self) -> Result<(), Error> {
        self.projection.rolled_back();
        let mut tx = self.store.begin(Durability::Now).await?;
        take_turns(&mut tx).await?;
        lock(&mut tx, self.projection.name()).await?;
        self.recreate(&mut tx).await?;
        self.store.commit(tx).await?;
        self.progress.set(0);
        Ok(())
    }

    /// Applies one chunk; returns how many events it had.
    async fn step(&mut self) -> Result<usize, Error> {
        let after = self.progress.get();
        let events = self.log.read(after, self.chunk).await?;
        let mut tx = self.store.begin(Durability::Later).await?;
        if !self.store.exclusive() {
            // Another replica may be at it, or may have gone ahead.
            let sql = match tx.dialect() {
                Dialect::Postgres => {
                    "SELECT version, position FROM ledger_projections WHERE name = $1 FOR UPDATE SKIP LOCKED"
                }
                // Whoever has a transaction there is alone.
                Dialect::Sqlite => {
                    "SELECT version, position FROM ledger_projections WHERE name = $1"
                }
            };
            let row = tx
                .fetch_optional(sql, params![self.projection.name()])
                .await?;
            let own = self.projection.version();
            let (version, stored) = match row {
                Some(row) => (row.get::<u32>(0)?, row.get(1)?),
                None => (u32::MAX, after),
            };
            if version != own || stored != after {
                self.projection.rolled_back();
                self.standby = version >= own;
                // An older program started later, and made them again.
                if version < own {
                    self.recreate(&mut tx).await?;
                }
                self.store.commit(tx).await?;
                self.progress.set(if version < own { 0 } else { stored });
                return Ok(0);
            }
        }
        let started = Instant::now();
        let Some(last) = events.last().map(|event| event.position) else {
            self.store.commit(tx).await?;
            self.progress.set(after);
            return Ok(0);
        };
        self.projection.apply(&mut tx, &events).await?;
        tx.execute(
            "UPDATE ledger_projections SET position = $1 WHERE name = $2",
            params![last, self.projection.name()],
        )
        .await?;
        self.store.commit(tx).await?;
        self.pace(started.elapsed(), self.log.head().saturating_sub(last));
        self.progress.set(last);
        Ok(events.len())
    }

    /// Larger chunks while they are quick, smaller ones when they hold up commits.
    fn pace(&mut self, took: Duration, behind: u64) {
        let factor = u32::try_from(behind / BEHIND).unwrap_or(u32::MAX).max(1);
        let time = match self.store.exclusive() {
            true => CHUNK_TIME,
            false => SHARED_CHUNK_TIME,
        };
        let allowed = time.saturating_mul(factor);
        if took > allowed {
            self.chunk = (self.chunk / 2).max(SMALLEST_CHUNK);
        } else if took < allowed / 2 {
            self.chunk = (self.chunk * 2).min(LARGEST_CHUNK);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.progress.close();
    }
}

/// Version and position of a projection's tables, for this transaction alone. Before the tables themselves: a step locks them in that order as well.
async fn lock(tx: &mut Tx, name: &str) -> Result<Option<(u32, u64)>, Error> {
    let sql = match tx.dialect() {
        Dialect::Postgres => {
            "SELECT version, position FROM ledger_projections WHERE name = $1 FOR UPDATE"
        }
        // Whoever has a transaction there is alone.
        Dialect::Sqlite => "SELECT version, position FROM ledger_projections WHERE name = $1",
    };
    let row = tx.fetch_optional(sql, params![name]).await?;
    row.map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// Replicas that create tables at once would fail each other: one after the other until the end of the transaction.
async fn take_turns(tx: &mut Tx) -> Result<(), Error> {
    if tx.dialect() == Dialect::Postgres {
        let sql = "SELECT pg_advisory_xact_lock(hashtext('sagamesh-projections'), hashtext(current_schema()))";
        tx.execute(sql, params![]).await?;
    }
    Ok(())
}
