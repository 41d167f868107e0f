//! One projection's task.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Projection;
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
    position: watch::Sender<u64>,
    /// Somebody waits for a position.
    hurry: Arc<Notify>,
    chunk: usize,
    /// Another replica wrote the tables last.
    standby: bool,
    lag: metrics::Gauge,
}

impl Follower {
    pub(super) fn new(
        store: Arc<dyn Store>,
        log: Arc<Log>,
        projection: Box<dyn Projection>,
        position: watch::Sender<u64>,
        hurry: Arc<Notify>,
    ) -> Self {
        let lag = metrics::gauge!("ledger_projection_lag", "projection" => projection.name());
        Self {
            store,
            log,
            projection,
            position,
            hurry,
            chunk: 64,
            standby: false,
            lag,
        }
    }

    /// Creates the tables, or makes them again when the version has changed.
    pub(super) async fn prepare(&mut self) -> Result<(), Error> {
        let mut tx = self.store.begin(Durability::Now).await?;
        take_turns(&mut tx).await?;
        let stored = tx
            .fetch_optional(
                "SELECT version, position FROM ledger_projections WHERE name = $1",
                params![self.projection.name()],
            )
            .await?;
        if let Some(row) = stored
            && row.get::<u32>(0)? == self.projection.version()
        {
            self.position.send_replace(row.get(1)?);
            return self.store.commit(tx).await;
        }
        self.recreate(&mut tx).await?;
        self.store.commit(tx).await?;
        self.position.send_replace(0);
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
            let behind = self.log.head().saturating_sub(*self.position.borrow());
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
                _ = head.changed() => continue,
            }
            if let Some(rest) = self.rest(applied, behind) {
                tokio::select! {
                    () = tokio::time::sleep(rest) => {}
                    () = self.hurry.notified() => {}
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
                    tracing::warn!(%error, projection = self.projection.name(), "a projection could not be written; it is tried again");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// How long to wait before the next step.
    fn rest(&self, applied: usize, behind: u64) -> Option<Duration> {
        // One receiver is the handle's, others are of those who wait.
        let wanted = self.position.receiver_count() > 1;
        match (self.standby, wanted) {
            (true, true) => Some(WANTED),
            (true, false) => Some(STANDBY),
            (false, _) => (applied > BUSY && behind < self.chunk as u64).then_some(LINGER),
        }
    }

    /// Looks where another replica has got; goes on in its place once it stands still.
    async fn stand_by(&mut self) -> Result<usize, Error> {
        let sql = "SELECT position FROM ledger_projections WHERE name = $1";
        let reader = self.store.reader();
        let row = reader
            .fetch_optional(sql, params![self.projection.name()])
            .await?;
        let stored = row.map_or(Ok(0), |row| row.get(0))?;
        self.standby = self.position.send_if_modified(|known| {
            let moved = stored != *known;
            *known = stored;
            moved
        });
        Ok(0)
    }

    async fn rebuild(&mut self) -> Result<(), Error> {
        self.projection.rolled_back();
        let mut tx = self.store.begin(Durability::Now).await?;
        take_turns(&mut tx).await?;
        self.recreate(&mut tx).await?;
        self.store.commit(tx).await?;
        self.position.send_replace(0);
        Ok(())
    }

    /// Applies one chunk; returns how many events it had.
    async fn step(&mut self) -> Result<usize, Error> {
        let after = *self.position.borrow();
        let events = self.log.read(after, self.chunk).await?;
        let mut tx = self.store.begin(Durability::Later).await?;
        if !self.store.exclusive() {
            // Another replica may be at it, or may have gone ahead.
            let sql =
                "SELECT position FROM ledger_projections WHERE name = $1 FOR UPDATE SKIP LOCKED";
            let row = tx
                .fetch_optional(sql, params![self.projection.name()])
                .await?;
            let stored = row.map(|row| row.get::<u64>(0)).transpose()?;
            if stored != Some(after) {
                self.store.commit(tx).await?;
                self.projection.rolled_back();
                self.standby = true;
                self.position.send_replace(stored.unwrap_or(after));
                return Ok(0);
            }
        }
        let started = Instant::now();
        let Some(last) = events.last().map(|event| event.position) else {
            self.store.commit(tx).await?;
            self.position.send_replace(after);
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
        self.position.send_replace(last);
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

/// Replicas that create tables at once would fail each other: one after the other until the end of the transaction.
async fn take_turns(tx: &mut Tx) -> Result<(), Error> {
    if tx.dialect() == Dialect::Postgres {
        let sql = "SELECT pg_advisory_xact_lock(hashtext('sagamesh-projections'), hashtext(current_schema()))";
        tx.execute(sql, params![]).await?;
    }
    Ok(())
}
