//! Where the bank keeps its records: SQLite or PostgreSQL, with the same statements.

use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, PgPool, Postgres, Sqlite, SqlitePool, Transaction};

use super::super::Request;
use crate::domain::{Answer, Operation};

/// `BIGINT` and not `INTEGER`: in PostgreSQL that has 32 bits.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS operations (
    key TEXT PRIMARY KEY,
    payment_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    approved BIGINT NOT NULL,
    reference TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS operations_of_payment ON operations (payment_id);
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    calls BIGINT NOT NULL
);
";

/// The schema of the bank in PostgreSQL.
const NAME: &str = "bank";

/// Connections to PostgreSQL: a call holds one only while it reads and writes.
const CONNECTIONS: u32 = 4;

/// The bank could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file.
    #[error(
        "the built-in bank's file {path} cannot be opened ({source}): restore it, or move it away to start with an empty one"
    )]
    File {
        /// Where it is.
        path: String,
        /// Why.
        source: sqlx::Error,
    },
    /// Its schema in PostgreSQL.
    #[error(
        "the built-in bank cannot be opened in PostgreSQL, schema {NAME} ({0}): check that the database answers, and that its user may create a schema there"
    )]
    Postgres(sqlx::Error),
}

/// Where it is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A transaction. It is rolled back when it is dropped without commit.
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Place {
    pub(super) async fn file(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File {
            path: path.display().to_string(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(sqlx::Error::Io(error)))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        // One connection: calls are taken one after the other, as the counts need.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // SQLite itself ends a transaction that meets a full disk, and sqlx goes on counting it: what came after on the same
            // connection would be nested in nothing, and its commit no commit.
            .before_acquire(|connection, _| {
                let clean = !connection.is_in_transaction();
                Box::pin(std::future::ready(Ok(clean)))
            })
            .connect_with(options)
            .await
            .map_err(failed)?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await.map_err(failed)?;
        Ok(Self::Sqlite(pool))
    }

    pub(super) async fn postgres(url: &str) -> Result<Self, OpenError> {
        let open = async {
            let options = PgConnectOptions::from_str(url)?
                .options([("search_path", NAME)])
                .application_name("sagamesh-bank");
            let pool = PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .acquire_timeout(Duration::from_secs(10))
                .connect_with(options)
                .await?;
            let mut tx = Tx::Postgres(pool.begin().await?);
            // Replicas that start together would fail each other.
            tx.take_turns("").await?;
            if let Tx::Postgres(tx) = &mut tx {
                sqlx::raw_sql("CREATE SCHEMA IF NOT EXISTS bank")
                    .execute(&mut **tx)
                    .await?;
                sqlx::raw_sql(SCHEMA).execute(&mut **tx).await?;
            }
            tx.commit().await?;
            Ok(pool)
        };
        open.await.map(Self::Postgres).map_err(OpenError::Postgres)
    }

    pub(super) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(pool) => Tx::Sqlite(pool.begin().await?),
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }
}

/// Runs a query on either.
macro_rules! run {
    ($tx:expr, $query:expr, $how:ident $(, $then:ident)?) => {
        match $tx {
            Tx::Sqlite(tx) => $query.$how(&mut **tx).await$(.map($then))?,
            Tx::Postgres(tx) => $query.$how(&mut **tx).await$(.map($then))?,
        }
    };
}

impl Tx {
    /// Keeps other calls about this payment out until the end, whatever process they come to: an answer depends on the ones
    /// before it. SQLite lets one transaction write at a time.
    pub(super) async fn take_turns(&mut self, payment_id: &str) -> Result<(), sqlx::Error> {
        if let Self::Postgres(tx) = self {
            sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sagamesh-bank'), hashtext($1))")
                .bind(payment_id)
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    /// Counts a call of a key; returns its number, from 1.
    pub(super) async fn count_call(&mut self, key: &str) -> Result<i64, sqlx::Error> {
        const COUNT: &str = "INSERT INTO calls (key, calls) VALUES ($1, 1) \
            ON CONFLICT (key) DO UPDATE SET calls = calls.calls + 1 RETURNING calls";
        run!(self, sqlx::query_scalar(COUNT).bind(key), fetch_one)
    }

    /// What was answered to a key.
    pub(super) async fn recorded(&mut self, key: &str) -> Result<Option<Answer>, sqlx::Error> {
        const FIND: &str =
            "SELECT approved, reference, reason, message FROM operations WHERE key = $1";
        let row: Option<(i64, String, String, String)> =
            run!(self, sqlx::query_as(FIND).bind(key), fetch_optional)?;
        Ok(row.map(|(approved, reference, reason, message)| {
            if approved == 1 {
                Answer::Approved { reference }
            } else {
                Answer::Declined { reason, message }
            }
        }))
    }

    /// What was approved for a payment.
    pub(super) async fn approved(
        &mut self,
        payment_id: &str,
    ) -> Result<Vec<Operation>, sqlx::Error> {
        const LIST: &str =
            "SELECT operation FROM operations WHERE payment_id = $1 AND approved = 1";
        let names: Vec<String> = run!(self, sqlx::query_scalar(LIST).bind(payment_id), fetch_all)?;
        Ok(names
            .iter()
            .filter_map(|name| Operation::parse(name))
            .collect())
    }

    /// Puts an answer on record.
    pub(super) async fn record(
        &mut self,
        request: &Request,
        answer: &Answer,
    ) -> Result<(), sqlx::Error> {
        const RECORD: &str = "INSERT INTO operations VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let (approved, reference, reason, message) = match answer {
            Answer::Approved { reference } => (1_i64, reference.as_str(), "", ""),
            Answer::Declined { reason, message } => (0, "", reason.as_str(), message.as_str()),
        };
        let operation = request.operation.name();
        run!(
            self,
            sqlx::query(RECORD)
                .bind(&request.key)
                .bind(&request.payment_id)
                .bind(operation)
                .bind(request.amount.minor_units)
                .bind(&request.amount.currency)
                .bind(approved)
                .bind(reference)
                .bind(reason)
                .bind(message),
            execute,
            drop
        )
    }

    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }
}
