//! PostgreSQL: any number of writers, one statement per batch.

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};
use uuid::Uuid;

use super::{
    AppendError, Batch, BoxFuture, Durability, EventRest, Loaded, PRUNE_BARRIERS, PRUNE_OTHERS,
    PRUNE_WINDOW, Prune, Pruned, Store,
};
use crate::shards::LeaseTable;
use crate::sql::{Connection, Pool, Sql, Tx};
use crate::{Error, Recorded, StoreConfig, StreamId};

mod connections;
mod leases;
mod open;
mod read;

pub(crate) use connections::{Connections, Held};
use leases::PostgresLeases;

/// The log that is written; there is one so far.
const SHARD: i64 = 0;

/// A transaction of a process that has stopped where it stood must not hold up the others for longer than a lease lasts.
const IDLE_IN_TRANSACTION: &str = "2s";

const APPEND: &str = "SELECT first, stale_streams, stale_keys, lost_leases FROM ledger_append(\
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)";

const READ: &str = "SELECT position, stream, version, type, data, commit_time FROM ledger_events \
    WHERE shard = $1 AND position > $2 ORDER BY position LIMIT $3";

const STREAMS: &str = "SELECT stream FROM ledger_events WHERE version = 1 AND stream > $1 AND stream >= $2 AND stream < $3 \
    ORDER BY stream LIMIT $4";

/// A ledger in a PostgreSQL database, in a schema of the service's name.
pub(crate) struct PostgresStore {
    name: Arc<str>,
    log_id: Arc<str>,
    writer: String,
    session: AtomicI64,
    /// Appends and look-ups only, so that projections do not hold them up.
    appends: Connections,
    transactions: Connections,
    queries: Connections,
    leases: PostgresLeases,
}

impl PostgresStore {
    /// Connects, and creates the tables if there are none.
    pub(crate) async fn open(config: &StoreConfig) -> Result<Self, Error> {
        let schema = if config.name.is_empty() {
            "ledger".to_owned()
        } else {
            config.name.replace('-', "_")
        };
        if !schema
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            return Err(Error::Config(format!(
                "{schema} cannot name a schema: use lower-case letters, digits and _"
            )));
        }
        let options = PgConnectOptions::from_str(&config.database_url)
            .map_err(|_| {
                Error::Config(
                    "the database URL is not of the form postgres://user@host:port/database".into(),
                )
            })?
            .options([("search_path", schema.as_str())])
            .application_name(&format!("sagamesh-{schema}"))
            .disable_statement_logging();
        let name: Arc<str> = format!(
            "PostgreSQL database {} on {}, schema {schema}",
            options.get_database().unwrap_or("postgres"),
            options.get_host()
        )
        .into();
        let pool = |size, read_only: &str| {
            let options = options.clone().options([
                ("default_transaction_read_only", read_only),
                ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
            ]);
            Connections::new(size, options, &name)
        };
        let (appends, transactions, queries) = (pool(2, "off"), pool(4, "off"), pool(8, "on"));
        let leases = PostgresLeases(pool(2, "off"));
        let writer = Uuid::now_v7().to_string();
        let log_id = open::prepare(&appends, &name, &schema, &writer).await?;
        Ok(Self {
            name,
            log_id,
            leases,
            writer,
            session: AtomicI64::new(1),
            appends,
            transactions,
            queries,
        })
    }

    async fn write(&self, batch: &Batch) -> Result<u64, AppendError> {
        let events = &batch.events;
        let (expected, expected_versions): (Vec<_>, Vec<_>) = batch
            .expected
            .iter()
            .map(|(stream, version)| (stream.as_str(), *version as i64))
            .unzip();
        let explain = |error| open::explain(&self.name, error);
        let mut connection = self.appends.acquire().await.map_err(explain)?;
        let row = sqlx::query(APPEND)
            .bind(SHARD)
            .bind(&self.writer)
            .bind(self.session.load(Ordering::Relaxed))
            .bind(batch.id.to_string())
            .bind(batch.commit_millis)
            .bind(
                events
                    .iter()
                    .map(|row| row.stream.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                events
                    .iter()
                    .map(|row| row.version as i64)
                    .collect::<Vec<_>>(),
            )
            .bind(events.iter().map(|row| row.type_name).collect::<Vec<_>>())
            .bind(events.iter().map(|row| &*row.data).collect::<Vec<&[u8]>>())
            .bind(
                batch
                    .inbox
                    .iter()
                    .map(|(key, _)| &**key)
                    .collect::<Vec<_>>(),
            )
            .bind(
                batch
                    .inbox
                    .iter()
                    .map(|(_, value)| &**value)
                    .collect::<Vec<&[u8]>>(),
            )
            .bind(expected)
            .bind(expected_versions)
            .bind(batch.absent.iter().map(|key| &**key).collect::<Vec<_>>())
            .bind(
                batch
                    .cursors
                    .iter()
                    .map(|cursor| cursor.consumer.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                batch
                    .cursors
                    .iter()
                    .map(|cursor| cursor.log_id.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                batch
                    .cursors
                    .iter()
                    .map(|cursor| cursor.position as i64)
                    .collect::<Vec<_>>(),
            )
            .bind(
                batch
                    .snapshots
                    .iter()
                    .map(|snapshot| snapshot.stream.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                batch
                    .snapshots
                    .iter()
                    .map(|snapshot| snapshot.version as i64)
                    .collect::<Vec<_>>(),
            )
            .bind(
                batch
                    .snapshots
                    .iter()
                    .map(|snapshot| snapshot.data.as_slice())
                    .collect::<Vec<&[u8]>>(),
            )
            .bind(
                batch
                    .fences
                    .iter()
                    .map(|fence| fence.shard)
                    .collect::<Vec<_>>(),
            )
            .bind(
                batch
                    .fences
                    .iter()
                    .map(|fence| fence.epoch)
                    .collect::<Vec<_>>(),
            )
            .fetch_one(&mut connection)
            .await
            .map_err(explain)?;
        let streams: Option<Vec<String>> = row.try_get(1).map_err(Error::from)?;
        let keys: Option<Vec<String>> = row.try_get(2).map_err(Error::from)?;
        let lost: Option<Vec<i64>> = row.try_get(3).map_err(Error::from)?;
        if streams.is_some() || keys.is_some() || lost.is_some() {
            let streams = streams
                .unwrap_or_default()
                .into_iter()
                .map(StreamId::from)
                .collect();
            return Err(AppendError::Stale {
                streams,
                keys: keys.unwrap_or_default(),
                shards: lost.unwrap_or_default(),
            });
        }
        Ok(row.try_get::<i64, _>(0).map_err(Error::from)? as u64)
    }

    /// Ends the session, so that a statement that is still on its way is refused, and then looks.
    async fn lookup(&self, batch: &Batch) -> Result<Option<u64>, Error> {
        let mut tx = self.appends.begin().await?;
        sqlx::query("SELECT 1 FROM ledger_shards WHERE shard = $1 FOR UPDATE")
            .bind(SHARD)
            .execute(&mut tx)
            .await?;
        // The row may have been forgotten after a month of silence.
        let row = sqlx::query(
            "INSERT INTO ledger_writers (writer, session, seen) VALUES ($1, $2, $3) \
             ON CONFLICT (writer) DO UPDATE SET session = ledger_writers.session + 1 RETURNING session, batch, first",
        )
        .bind(&self.writer)
        .bind(self.session.load(Ordering::Relaxed) + 1)
        .bind(batch.commit_millis)
        .fetch_one(&mut tx)
        .await?;
        tx.commit().await?;
        self.session.store(row.try_get(0)?, Ordering::Relaxed);
        let written = row
            .try_get::<Option<&str>, _>(1)?
            .is_some_and(|found| found == batch.id.to_string());
        Ok(if written {
            row.try_get::<Option<i64>, _>(2)?.map(|first| first as u64)
        } else {
            None
        })
    }
}

impl Store for PostgresStore {
    fn log_id(&self) -> Arc<str> {
        Arc::clone(&self.log_id)
    }

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn exclusive(&self) -> bool {
        false
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
        Box::pin(self.load_streams(&self.appends, streams, snapshots))
    }

    fn peek<'a>(
        &'a self,
        streams: &'a [StreamId],
        snapshots: bool,
    ) -> BoxFuture<'a, Result<Vec<Loaded>, Error>> {
        Box::pin(self.load_streams(&self.transactions, streams, snapshots))
    }

    fn tail<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
    ) -> BoxFuture<'a, Result<Vec<EventRest>, Error>> {
        Box::pin(async move {
            let rows = sqlx::query_as::<_, (i64, String, Vec<u8>)>(
                "SELECT version, type, data FROM ledger_events WHERE stream = $1 AND version > $2 ORDER BY version",
            )
            .bind(stream.as_str())
            .bind(after as i64)
            .fetch_all(&mut self.transactions.acquire().await?)
            .await?;
            Ok(rows
                .into_iter()
                .map(|(version, type_name, data)| (version as u64, type_name, data))
                .collect())
        })
    }

    fn inbox<'a>(
        &'a self,
        keys: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<(String, Vec<u8>)>, Error>> {
        Box::pin(async move {
            let rows = sqlx::query("SELECT key, value FROM ledger_inbox WHERE key = ANY($1)")
                .bind(keys.iter().map(|key| &**key).collect::<Vec<&str>>())
                .fetch_all(&mut self.appends.acquire().await?)
                .await?;
            rows.iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect()
        })
    }

    fn read(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        Box::pin(async move {
            let query = sqlx::query(READ)
                .bind(SHARD)
                .bind(after as i64)
                .bind(limit as i64);
            let rows = query
                .fetch_all(&mut self.transactions.acquire().await?)
                .await?;
            rows.iter()
                .map(|row| {
                    Ok(Recorded {
                        position: row.try_get::<i64, _>(0)? as u64,
                        stream: StreamId::from(row.try_get::<&str, _>(1)?),
                        version: row.try_get::<i64, _>(2)? as u64,
                        type_name: row.try_get::<String, _>(3)?.into(),
                        data: row.try_get::<&[u8], _>(4)?.into(),
                        commit_millis: row.try_get(5)?,
                    })
                })
                .collect()
        })
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let query =
                sqlx::query_scalar::<_, i64>("SELECT head FROM ledger_shards WHERE shard = $1")
                    .bind(SHARD);
            Ok(query
                .fetch_one(&mut self.transactions.acquire().await?)
                .await? as u64)
        })
    }

    fn streams<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StreamId>, Error>> {
        Box::pin(async move {
            let end = format!("{prefix}\u{10FFFF}");
            let query = sqlx::query_scalar::<_, String>(STREAMS)
                .bind(after)
                .bind(prefix)
                .bind(end)
                .bind(limit as i64);
            Ok(query
                .fetch_all(&mut self.transactions.acquire().await?)
                .await?
                .into_iter()
                .map(StreamId::from)
                .collect())
        })
    }

    fn begin(&self, durability: Durability) -> BoxFuture<'_, Result<Tx, Error>> {
        Box::pin(async move {
            let mut tx = self.transactions.begin().await?;
            if durability == Durability::Later {
                sqlx::query("SET LOCAL synchronous_commit = off")
                    .execute(&mut tx)
                    .await?;
            }
            Ok(Tx(Connection::Postgres(tx)))
        })
    }

    fn commit(&self, tx: Tx) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let Connection::Postgres(tx) = tx.0 else {
                return Err(Error::Contract(
                    "a transaction was given to another store".into(),
                ));
            };
            tx.commit()
                .await
                .map_err(|error| open::explain(&self.name, error))
        })
    }

    fn reader(&self) -> Sql {
        Sql(Pool::Postgres(self.queries.clone()))
    }

    fn leases(&self) -> Option<Arc<dyn LeaseTable>> {
        Some(Arc::new(self.leases.clone()))
    }

    fn prune_inbox(&self, prune: Prune) -> BoxFuture<'_, Result<Pruned, Error>> {
        Box::pin(async move {
            let window: Vec<(i64, i64)> = sqlx::query_as(PRUNE_WINDOW)
                .bind(prune.after)
                .fetch_all(&mut self.transactions.acquire().await?)
                .await?;
            let end = prune.end(&window);
            sqlx::query(PRUNE_OTHERS)
                .bind(prune.after)
                .bind(end)
                .execute(&mut self.transactions.acquire().await?)
                .await?;
            let barriers = sqlx::query(PRUNE_BARRIERS)
                .bind(prune.barriers_before)
                .execute(&mut self.transactions.acquire().await?)
                .await?
                .rows_affected();
            Ok(Pruned {
                after: end,
                more: end > prune.after || barriers > 0,
            })
        })
    }

    fn maintain(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for pool in [
                &self.appends,
                &self.transactions,
                &self.queries,
                &self.leases.0,
            ] {
                pool.close().await;
            }
        })
    }
}
