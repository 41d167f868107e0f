//! SQLite: one file, one writer connection for everything that writes, WAL with synchronous=FULL.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    AppendError, Batch, BoxFuture, Durability, EventRest, Loaded, PRUNE_BARRIERS, PRUNE_OTHERS,
    PRUNE_WINDOW, Prune, Pruned, Store,
};
use crate::sql::{Connection, Dynamic, Pool, Sql, Tx, at_once};
use crate::{Error, Recorded, StreamId};

mod filter;
mod open;
mod read;
mod statement;

pub(crate) use open::{explain, lock_file, read_meta};

/// The one connection that writes.
pub(crate) struct Writer {
    pub(crate) connection: SqliteConnection,
    /// Nobody may write any more.
    closed: bool,
    /// A transaction may be open: whoever takes the writer next rolls it back.
    open: bool,
    /// synchronous is not FULL at the moment.
    relaxed: bool,
    /// Its statements are waited for on the spot: these are the tables of a simulated disk.
    pub(crate) at_once: bool,
    /// The newest position.
    head: u64,
    /// SQL text by shape.
    texts: HashMap<statement::Shape, Arc<str>>,
}

/// A ledger in a SQLite file.
pub(crate) struct SqliteStore {
    path: PathBuf,
    log_id: Arc<str>,
    writer: Arc<Mutex<Writer>>,
    /// For the ledger's own reads, so that slow queries of a service do not hold them up.
    reads: SqlitePool,
    /// For the committer alone.
    loads: SqlitePool,
    queries: SqlitePool,
    /// Inbox keys that may be on record.
    filter: filter::Filter,
    checkpointer: Mutex<Option<SqliteConnection>>,
    /// Bytes written to the WAL since the last checkpoint, roughly.
    unchecked: AtomicU64,
    /// Held as long as the store is open.
    lock: std::sync::Mutex<Option<std::fs::File>>,
}

/// Bytes of WAL after which a checkpoint is worth while.
const CHECKPOINT_BYTES: u64 = 8 << 20;

impl SqliteStore {
    /// Opens or creates the file.
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
        }
        let lock = lock_file(path)?;
        let name = path.display().to_string();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256)
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", "67108864")
            .pragma("temp_store", "MEMORY")
            .pragma("cache_size", "-8192")
            .disable_statement_logging();
        let mut connection = options
            .connect()
            .await
            .map_err(|error| open::explain(&name, error))?;
        let (log_id, head) = open::prepare(&mut connection, path).await?;
        let reading = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(128)
            .disable_statement_logging();
        let pool = |size| {
            SqlitePoolOptions::new()
                .max_connections(size)
                .test_before_acquire(false)
                .acquire_timeout(Duration::from_secs(10))
                .connect_lazy_with(reading.clone())
        };
        Ok(Self {
            path: path.to_owned(),
            log_id,
            writer: Arc::new(Mutex::new(Writer {
                connection,
                closed: false,
                open: false,
                relaxed: false,
                at_once: false,
                head,
                texts: HashMap::new(),
            })),
            reads: pool(2),
            loads: pool(1),
            queries: pool(4),
            filter: filter::Filter::default(),
            checkpointer: Mutex::new(None),
            unchecked: AtomicU64::new(CHECKPOINT_BYTES),
            lock: std::sync::Mutex::new(Some(lock)),
        })
    }

    /// A reader with one connection of its own, for a simulation.
    pub(crate) async fn reader_at_once(&self) -> Result<Sql, Error> {
        let connection = self.queries.connect_options().connect().await?;
        Ok(Sql(Pool::AtOnce(Arc::new(Mutex::new(connection)), None)))
    }

    /// Takes the writer, with no transaction open and full durability.
    async fn writer(&self) -> Result<OwnedMutexGuard<Writer>, Error> {
        Self::ready(Arc::clone(&self.writer).lock_owned().await).await
    }

    async fn ready(mut writer: OwnedMutexGuard<Writer>) -> Result<OwnedMutexGuard<Writer>, Error> {
        if writer.closed {
            return Err(Error::Closed);
        }
        if writer.open {
            // Fails when the error already ended the transaction.
            let _ = sqlx::raw_sql("ROLLBACK")
                .execute(&mut writer.connection)
                .await;
            writer.open = false;
        }
        if writer.relaxed {
            sqlx::raw_sql("PRAGMA synchronous = FULL")
                .execute(&mut writer.connection)
                .await?;
            writer.relaxed = false;
        }
        Ok(writer)
    }

    async fn start(
        mut writer: OwnedMutexGuard<Writer>,
        durability: Durability,
    ) -> Result<Tx, Error> {
        let sql = match durability {
            Durability::Now => "BEGIN IMMEDIATE",
            Durability::Later => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
        };
        writer.open = true;
        writer.relaxed = durability == Durability::Later;
        sqlx::raw_sql(sql).execute(&mut writer.connection).await?;
        Ok(Tx(Connection::Sqlite(writer)))
    }

    /// A transaction whose statements are waited for on the spot, for a simulation. Its turn is waited for as usual: whoever has it may have to wait itself.
    pub(crate) async fn begin_at_once(&self, durability: Durability) -> Result<Tx, Error> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        writer.at_once = true;
        let begin = async { Self::start(Self::ready(writer).await?, durability).await };
        at_once(true, begin).await
    }

    async fn write(&self, batch: &Batch) -> Result<u64, AppendError> {
        let mut writer = self.writer().await?;
        let writer = &mut *writer;
        let first = writer.head + 1;
        let (shape, arguments, bytes) =
            statement::arguments(batch, first).map_err(AppendError::Failed)?;
        let text = writer
            .texts
            .entry(shape)
            .or_insert_with(|| shape.text().into());
        let query = sqlx::query_with::<Sqlite, _>(Dynamic(Arc::clone(text)), arguments);
        // Before they can be seen; a key too many does no harm.
        self.filter.add(batch.inbox.iter().map(|(key, _)| &**key));
        writer.open = true;
        let mut result = query.execute(&mut writer.connection).await.map(|_| ());
        if result.is_ok() && !shape.complete() {
            result = statement::extras(&mut writer.connection, batch).await;
        }
        self.unchecked.fetch_add(bytes, Ordering::Relaxed);
        match result {
            Ok(()) => {
                writer.open = false;
                writer.head += batch.events.len() as u64;
                Ok(first)
            }
            Err(error) => {
                let _ = sqlx::raw_sql("ROLLBACK")
                    .execute(&mut writer.connection)
                    .await;
                writer.open = false;
                let unique = error
                    .as_database_error()
                    .is_some_and(|error| error.is_unique_violation());
                let error = open::explain(&self.name(), error);
                if unique && let Some(stale) = stale(&mut writer.connection, batch).await? {
                    return Err(stale);
                }
                Err(AppendError::Failed(error))
            }
        }
    }

    async fn lookup(&self, batch: &Batch) -> Result<Option<u64>, Error> {
        let mut writer = self.writer().await?;
        let first = writer.head + 1;
        let found = if batch.events.is_empty() {
            sqlx::query("SELECT 1 FROM ledger_meta WHERE key = 'last_batch' AND value = $1")
                .bind(batch.id.to_string())
                .fetch_optional(&mut writer.connection)
                .await?
        } else {
            sqlx::query("SELECT 1 FROM ledger_events WHERE position = $1 AND batch = $2")
                .bind(first as i64)
                .bind(batch.id.as_bytes().to_vec())
                .fetch_optional(&mut writer.connection)
                .await?
        };
        if found.is_some() {
            writer.head += batch.events.len() as u64;
        }
        Ok(found.map(|_| first))
    }

    async fn checkpoint(&self) -> Result<(), Error> {
        if self.unchecked.load(Ordering::Relaxed) < CHECKPOINT_BYTES {
            return Ok(());
        }
        self.unchecked.store(0, Ordering::Relaxed);
        // The bulk goes on a connection of its own, beside the commits ...
        let mut checkpointer = self.checkpointer.lock().await;
        let connection = match &mut *checkpointer {
            Some(connection) => connection,
            none => {
                let options = SqliteConnectOptions::new()
                    .filename(&self.path)
                    .disable_statement_logging();
                none.insert(options.connect().await?)
            }
        };
        sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)")
            .execute(connection)
            .await?;
        // ... and the little that was written meanwhile between two commits, so that the WAL starts again from its beginning.
        let mut writer = self.writer().await?;
        sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)")
            .execute(&mut writer.connection)
            .await?;
        Ok(())
    }
}

/// What made a batch violate a constraint.
async fn stale(
    connection: &mut SqliteConnection,
    batch: &Batch,
) -> Result<Option<AppendError>, Error> {
    let (mut streams, mut keys) = (Vec::new(), Vec::new());
    for (stream, expected) in &batch.expected {
        let version: i64 = sqlx::query_scalar(
            "SELECT COALESCE(MAX(version), 0) FROM ledger_events WHERE stream = $1",
        )
        .bind(stream.as_str())
        .fetch_one(&mut *connection)
        .await?;
        if version as u64 != *expected {
            streams.push(stream.clone());
        }
    }
    for (key, _) in &batch.inbox {
        let exists = sqlx::query("SELECT 1 FROM ledger_inbox WHERE key = $1")
            .bind(&**key)
            .fetch_optional(&mut *connection)
            .await?;
        if exists.is_some() {
            keys.push(key.to_string());
        }
    }
    Ok(
        (!streams.is_empty() || !keys.is_empty()).then_some(AppendError::Stale {
            streams,
            keys,
            shards: Vec::new(),
        }),
    )
}

impl Store for SqliteStore {
    fn log_id(&self) -> Arc<str> {
        Arc::clone(&self.log_id)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn exclusive(&self) -> bool {
        true
    }

    fn append<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<u64, AppendError>> {
        Box::pin(self.write(batch))
    }

    fn find<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Option<u64>, Error>> {
        Box::pin(self.lookup(batch))
    }

    fn load<'a>(
        &'a self,
        streams: &'a [StreamId],
        snapshots: bool,
    ) -> BoxFuture<'a, Result<Vec<Loaded>, Error>> {
        Box::pin(self.load_streams(&self.loads, streams, snapshots))
    }

    fn peek<'a>(
        &'a self,
        streams: &'a [StreamId],
        snapshots: bool,
    ) -> BoxFuture<'a, Result<Vec<Loaded>, Error>> {
        Box::pin(self.load_streams(&self.reads, streams, snapshots))
    }

    fn tail<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
    ) -> BoxFuture<'a, Result<Vec<EventRest>, Error>> {
        Box::pin(self.read_tail(stream, after))
    }

    fn inbox<'a>(
        &'a self,
        keys: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<(String, Vec<u8>)>, Error>> {
        Box::pin(self.load_inbox(keys))
    }

    fn read(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        Box::pin(self.read_log(after, limit))
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move { Ok(self.writer.lock().await.head) })
    }

    fn streams<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StreamId>, Error>> {
        Box::pin(async move {
            let rows = sqlx::query_scalar::<_, String>(
                "SELECT stream FROM ledger_events WHERE version = 1 AND stream > $1 AND stream >= $2 AND stream < $3 ORDER BY stream LIMIT $4",
            )
            .bind(after)
            .bind(prefix)
            .bind(format!("{prefix}\u{10FFFF}"))
            .bind(limit as i64)
            .fetch_all(&self.reads)
            .await?;
            Ok(rows.into_iter().map(StreamId::from).collect())
        })
    }

    fn begin(&self, durability: Durability) -> BoxFuture<'_, Result<Tx, Error>> {
        Box::pin(async move { Self::start(self.writer().await?, durability).await })
    }

    fn commit(&self, tx: Tx) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let Connection::Sqlite(mut writer) = tx.0 else {
                return Err(Error::Contract(
                    "a transaction was given to another store".into(),
                ));
            };
            self.unchecked.fetch_add(16 << 10, Ordering::Relaxed);
            let sql = if writer.relaxed {
                "COMMIT; PRAGMA synchronous = FULL"
            } else {
                "COMMIT"
            };
            sqlx::raw_sql(sql)
                .execute(&mut writer.connection)
                .await
                .map_err(|error| open::explain(&self.name(), error))?;
            writer.open = false;
            writer.relaxed = false;
            Ok(())
        })
    }

    fn reader(&self) -> Sql {
        Sql(Pool::Sqlite(self.queries.clone()))
    }

    fn prune_inbox(&self, prune: Prune) -> BoxFuture<'_, Result<Pruned, Error>> {
        Box::pin(async move {
            let window: Vec<(i64, i64)> = sqlx::query_as(PRUNE_WINDOW)
                .bind(prune.after)
                .fetch_all(&self.reads)
                .await?;
            let end = prune.end(&window);
            let mut tx = self.begin(Durability::Later).await?;
            tx.execute(PRUNE_OTHERS, crate::params![prune.after, end])
                .await?;
            let barriers = tx
                .execute(PRUNE_BARRIERS, crate::params![prune.barriers_before])
                .await?;
            self.commit(tx).await?;
            Ok(Pruned {
                after: end,
                more: end > prune.after || barriers > 0,
            })
        })
    }

    fn maintain(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if self.filter.is_due() {
                let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ledger_inbox")
                    .fetch_one(&self.reads)
                    .await?;
                // Holding the writer: no batch is half-way.
                let writer = self.writer().await?;
                self.filter.begin(rows as usize);
                drop(writer);
                self.filter.fill(&self.reads).await?;
            }
            self.checkpoint().await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.reads.close().await;
            self.loads.close().await;
            self.queries.close().await;
            self.checkpointer.lock().await.take();
            if let Ok(mut writer) = self.writer().await {
                // If a reader holds it up, the next open goes through the log instead.
                let _ = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                    .execute(&mut writer.connection)
                    .await;
                writer.closed = true;
                self.lock
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .take();
            }
        })
    }
}
