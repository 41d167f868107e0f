//! The service's own tables, and the barrier's beside them in the same database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chassis::Clock;
use participant::barrier;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, SqliteConnection, query, query_scalar};
use tokio_util::sync::CancellationToken;

/// How long barrier rows are kept: longer than any saga can still send a step again.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often old ones are looked for.
const SWEEP: Duration = Duration::from_secs(3600);
/// How many are forgotten in one transaction.
const SWEEP_ROWS: i64 = 1_000;

/// Everybody's points.
#[derive(Debug, Clone)]
pub struct Points {
    pool: SqlitePool,
}

impl Points {
    /// Opens the database file, and creates it when it is not there.
    pub async fn open(file: &Path) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            // One that met a full disk counts its transactions wrongly from then on.
            .before_acquire(|connection, _| {
                let clean = !connection.is_in_transaction();
                Box::pin(std::future::ready(Ok(clean)))
            })
            .connect_with(options)
            .await;
        let pool = pool.with_context(|| format!("cannot open the database {}", file.display()))?;
        let mut connection = pool.acquire().await?;
        query("CREATE TABLE IF NOT EXISTS points (customer_id TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0))")
            .execute(&mut *connection)
            .await?;
        barrier::sql::create_table(&mut *connection).await?;
        drop(connection);
        Ok(Self { pool })
    }

    /// A connection, for one command.
    pub(crate) async fn connection(
        &self,
    ) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>, sqlx::Error> {
        self.pool.acquire().await
    }

    /// What a customer has.
    pub async fn balance(&self, customer: &str) -> Result<i64, sqlx::Error> {
        let balance =
            query_scalar("SELECT balance FROM points WHERE customer_id = $1").bind(customer);
        Ok(balance.fetch_optional(&self.pool).await?.unwrap_or(0))
    }

    /// Forgets barrier rows that are too old to matter, until `stop`.
    pub(crate) async fn forget_old_barrier_rows(
        self,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) {
        let mut sweeps = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                _ = sweeps.tick() => {}
                () = stop.cancelled() => return,
            }
            let before = clock.now_millis() - i64::try_from(KEEP.as_millis()).unwrap_or(i64::MAX);
            if let Err(error) = self.forget(before).await {
                tracing::warn!(%error, "cannot forget old barrier rows; trying again in an hour");
            }
        }
    }

    async fn forget(&self, before_millis: i64) -> anyhow::Result<()> {
        let mut connection = self.pool.acquire().await?;
        while barrier::sql::forget(&mut *connection, before_millis, SWEEP_ROWS).await? > 0 {}
        Ok(())
    }
}

/// Adds points and returns the new balance. Part of a transaction.
pub(crate) async fn add(
    tx: &mut SqliteConnection,
    customer: &str,
    points: i64,
) -> Result<i64, sqlx::Error> {
    query_scalar(
        "INSERT INTO points (customer_id, balance) VALUES ($1, $2) \
         ON CONFLICT (customer_id) DO UPDATE SET balance = balance + excluded.balance RETURNING balance",
    )
    .bind(customer)
    .bind(points)
    .fetch_one(tx)
    .await
}

/// Removes points; `None` when the customer has too few. Part of a transaction.
pub(crate) async fn remove(
    tx: &mut SqliteConnection,
    customer: &str,
    points: i64,
) -> Result<Option<i64>, sqlx::Error> {
    query_scalar("UPDATE points SET balance = balance - $2 WHERE customer_id = $1 AND balance >= $2 RETURNING balance")
        .bind(customer)
        .bind(points)
        .fetch_optional(tx)
        .await
}
