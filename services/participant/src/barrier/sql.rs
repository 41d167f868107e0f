//! The barrier in a table beside the service's own, on a plain sqlx transaction: SQLite and PostgreSQL.
//!
//! The first statement of the transaction claims the action's row: that takes its lock, so two commands for one step run one
//! after the other, at READ COMMITTED too. [`guarded`] does everything around the service's work; [`enter`] and [`Pass::record`] are its
//! two halves for a service that keeps the transaction in its own hands.

use std::future::Future;

use sagamesh_api::saga::v1::Direction;
use sqlx::{Connection, PgConnection, SqliteConnection};

use super::{DecodeError, Key, RecordedOutcome, Verdict, refusal, rule, too_late};
use crate::Outcome;

/// The table, for SQLite.
pub const SCHEMA_SQLITE: &str = "
CREATE TABLE IF NOT EXISTS saga_barrier (
    saga_id         TEXT    NOT NULL,
    step            TEXT    NOT NULL,
    direction       INTEGER NOT NULL,
    outcome         INTEGER NOT NULL,
    payload         BLOB    NOT NULL,
    recorded_millis INTEGER NOT NULL,
    PRIMARY KEY (saga_id, step, direction)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS saga_barrier_by_age ON saga_barrier (recorded_millis);
";

/// The table, for PostgreSQL.
pub const SCHEMA_POSTGRES: &str = "
CREATE TABLE IF NOT EXISTS saga_barrier (
    saga_id         TEXT     NOT NULL,
    step            TEXT     NOT NULL,
    direction       SMALLINT NOT NULL,
    outcome         SMALLINT NOT NULL,
    payload         BYTEA    NOT NULL,
    recorded_millis BIGINT   NOT NULL,
    PRIMARY KEY (saga_id, step, direction)
);
CREATE INDEX IF NOT EXISTS saga_barrier_by_age ON saga_barrier (recorded_millis);
";

const ACTION: i16 = 1;
const COMPENSATION: i16 = 2;
/// The outcome of a row whose transaction is still under way: nobody else ever sees it.
const CLAIMED: i16 = 0;

/// Why the barrier could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database said no.
    #[error("the barrier's table: {0}")]
    Database(#[from] sqlx::Error),
    /// A row that cannot be read.
    #[error(transparent)]
    Row(#[from] DecodeError),
    /// The claim is gone, and the transaction with it: the database ended it at an error that the work passed over.
    #[error(
        "the transaction had ended before its outcome was recorded: the work must not pass over an error of its database"
    )]
    Ended,
}

/// What to do with a command.
#[derive(Debug)]
pub enum Entry {
    /// Do it in this transaction, and give its outcome to [`Pass::record`] before the commit.
    Proceed(Pass),
    /// Do nothing: commit, then answer so.
    Answer(Outcome),
}

/// Permission to do the work of a command in the transaction that it was given in.
#[derive(Debug)]
#[must_use = "the outcome must be recorded in the same transaction"]
pub struct Pass {
    key: Key,
    now_millis: i64,
}

impl Pass {
    /// Records the outcome. Whether to commit: an outcome that is not final must leave nothing behind, so roll back.
    pub async fn record<C: BarrierConnection>(
        self,
        connection: &mut C,
        outcome: &Outcome,
    ) -> Result<bool, Error> {
        match RecordedOutcome::of(self.key.direction, outcome) {
            Some(recorded) => {
                let column = column(self.key.direction);
                let kept = connection.confirm(&self.key, column, &recorded, self.now_millis);
                match kept.await? {
                    true => Ok(true),
                    false => Err(Error::Ended),
                }
            }
            None => Ok(false),
        }
    }
}

/// Asks the barrier. Must be the first statement of a transaction at READ COMMITTED (PostgreSQL) or of any transaction (SQLite). `clock` says the Unix time in
/// milliseconds, also after the wait for whoever is at the same step.
pub async fn enter<C: BarrierConnection>(
    connection: &mut C,
    key: &Key,
    clock: impl Fn() -> i64,
) -> Result<Entry, Error> {
    // Both directions claim the ACTION's row first: whoever comes second waits here for the first one's transaction.
    let claimed = connection.claim(key, ACTION, clock()).await?;
    let mut rows = if claimed {
        Found::default()
    } else {
        connection.rows(key).await?
    };
    if !claimed && key.direction == Direction::Compensation && rows.compensation.is_none() {
        // The action's row exists, so the lock of two compensations is the compensation's own row.
        if !connection.claim(key, COMPENSATION, clock()).await? {
            rows = connection.rows(key).await?;
        }
    }
    let now_millis = clock();
    match rule(
        key.direction,
        rows.action.as_ref(),
        rows.compensation.as_ref(),
    ) {
        Verdict::Proceed if key.is_late(now_millis) => {
            connection.unclaim(key).await?;
            Ok(Entry::Answer(too_late(key)))
        }
        Verdict::Proceed => Ok(Entry::Proceed(Pass {
            key: key.clone(),
            now_millis,
        })),
        Verdict::Replay(recorded) => Ok(Entry::Answer(recorded.into())),
        Verdict::Refuse => Ok(Entry::Answer(refusal(key))),
        Verdict::RecordNoOp => {
            if claimed {
                connection
                    .write(key, ACTION, &RecordedOutcome::Void, now_millis)
                    .await?;
            }
            connection
                .write(
                    key,
                    COMPENSATION,
                    &RecordedOutcome::Success(None),
                    now_millis,
                )
                .await?;
            Ok(Entry::Answer(Outcome::done()))
        }
    }
}

/// Runs `work` behind the barrier in one transaction of its own, and turns every way to fail into the right outcome: nothing
/// durable happened unless the commit may have taken. `clock` as for [`enter`].
///
/// ```ignore
/// barrier::sql::guarded(&mut *pool.acquire().await?, &command.key(), || clock.now_millis(), async |tx: &mut SqliteConnection| {
///     sqlx::query("UPDATE points SET balance = balance + 1").execute(tx).await?;
///     Ok(Outcome::done())
/// }).await
/// ```
pub async fn guarded<C, W>(
    connection: &mut C,
    key: &Key,
    clock: impl Fn() -> i64,
    work: W,
) -> Outcome
where
    C: BarrierConnection,
    W: AsyncFnOnce(&mut C) -> Result<Outcome, sqlx::Error>,
{
    if !is_clean(connection).await {
        return unavailable(
            &"the connection is in a transaction already: a pool must drop such connections (docs/barrier.md)",
        );
    }
    let mut transaction = match connection.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return unavailable(&error),
    };
    let answer = match enter(&mut *transaction, key, clock).await {
        Ok(Entry::Answer(outcome)) => outcome,
        Ok(Entry::Proceed(pass)) => {
            let outcome = match work(&mut *transaction).await {
                Ok(outcome) => outcome,
                Err(error) => return unavailable(&error),
            };
            match pass.record(&mut *transaction, &outcome).await {
                Ok(true) => outcome,
                // Dropping the transaction rolls it back: an outcome that is not final leaves nothing behind.
                Ok(false) => return outcome,
                Err(error @ Error::Ended) => {
                    tracing::error!(%error, "a step's work cannot be relied on");
                    return Outcome::unknown("TRANSACTION_ENDED", error.to_string());
                }
                Err(error) => return unavailable(&error),
            }
        }
        Err(error) => return unavailable(&error),
    };
    match transaction.commit().await {
        Ok(()) => answer,
        Err(error) => {
            tracing::warn!(%error, "a commit behind the barrier was not confirmed");
            Outcome::unknown(
                "COMMIT_UNCONFIRMED",
                "the database did not confirm the commit",
            )
        }
    }
}

/// Whether a transaction on this connection would be one of its own. SQLite itself ends a transaction that meets a full disk, and sqlx goes on
/// counting it: the next one would be nested in nothing, a rollback in it would leave it open, and no commit after that would be one. A pool gets rid of
/// such connections with `before_acquire`: see docs/barrier.md.
async fn is_clean<C: BarrierConnection>(connection: &mut C) -> bool {
    // The rollback of an earlier one may be on its way.
    !connection.is_in_transaction()
        || (connection.ping().await.is_ok() && !connection.is_in_transaction())
}

/// Forgets rows older than `before_millis`, at most `limit` of them, and returns how many. Keep rows for longer than any saga can
/// still send the step again: the definition's deadline and retention, plus the clocks' skew.
pub async fn forget<C: BarrierConnection>(
    connection: &mut C,
    before_millis: i64,
    limit: i64,
) -> Result<u64, Error> {
    Ok(connection.delete_before(before_millis, limit).await?)
}

/// Creates the table if it is not there.
pub async fn create_table<C: BarrierConnection>(connection: &mut C) -> Result<(), Error> {
    Ok(connection.create().await?)
}

/// The database failed before anything was committed.
fn unavailable(error: &dyn std::fmt::Display) -> Outcome {
    tracing::warn!(%error, "a step's transaction was rolled back");
    Outcome::transient(
        "DATABASE_UNAVAILABLE",
        "the participant's database could not do it; nothing was done",
    )
}

/// The rows of one saga and step.
#[derive(Debug, Default)]
pub struct Found {
    action: Option<RecordedOutcome>,
    compensation: Option<RecordedOutcome>,
}

impl Found {
    fn from_rows(rows: Vec<(i16, i16, Vec<u8>)>) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        for (direction, outcome, payload) in rows {
            let row = if direction == COMPENSATION {
                &mut found.compensation
            } else {
                &mut found.action
            };
            if outcome != CLAIMED {
                *row = Some(RecordedOutcome::from_columns(outcome, &payload)?);
            }
        }
        Ok(found)
    }
}

const fn column(direction: Direction) -> i16 {
    match direction {
        Direction::Compensation => COMPENSATION,
        Direction::Action | Direction::Unspecified => ACTION,
    }
}

const CLAIM: &str = "INSERT INTO saga_barrier (saga_id, step, direction, outcome, payload, recorded_millis) \
    VALUES ($1, $2, $3, 0, $4, $5) ON CONFLICT DO NOTHING";
const READ: &str =
    "SELECT direction, outcome, payload FROM saga_barrier WHERE saga_id = $1 AND step = $2";
const WRITE: &str = "INSERT INTO saga_barrier (saga_id, step, direction, outcome, payload, recorded_millis) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (saga_id, step, direction) \
    DO UPDATE SET outcome = excluded.outcome, payload = excluded.payload";
/// Of a claim of this transaction: without it the transaction has ended.
const CONFIRM: &str = "UPDATE saga_barrier SET outcome = $4, payload = $5, recorded_millis = $6 \
    WHERE saga_id = $1 AND step = $2 AND direction = $3 AND outcome = 0";
const UNCLAIM: &str = "DELETE FROM saga_barrier WHERE saga_id = $1 AND step = $2 AND outcome = 0";
const FORGET: &str = "DELETE FROM saga_barrier WHERE (saga_id, step, direction) IN \
    (SELECT saga_id, step, direction FROM saga_barrier WHERE recorded_millis < $1 ORDER BY recorded_millis LIMIT $2)";

/// A connection to a database that can keep the barrier's table: SQLite's or PostgreSQL's.
pub trait BarrierConnection: Connection + private::Rows {}

impl BarrierConnection for SqliteConnection {}
impl BarrierConnection for PgConnection {}

mod private {
    use super::{Found, Future, Key, RecordedOutcome};

    /// The few statements that the barrier needs.
    pub trait Rows: Send {
        fn create(&mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
        fn claim(
            &mut self,
            key: &Key,
            column: i16,
            now: i64,
        ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
        fn unclaim(&mut self, key: &Key) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
        fn rows(&mut self, key: &Key) -> impl Future<Output = Result<Found, super::Error>> + Send;
        fn write(
            &mut self,
            key: &Key,
            column: i16,
            outcome: &RecordedOutcome,
            now: i64,
        ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
        fn confirm(
            &mut self,
            key: &Key,
            column: i16,
            outcome: &RecordedOutcome,
            now: i64,
        ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
        fn delete_before(
            &mut self,
            millis: i64,
            limit: i64,
        ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    }
}

/// sqlx's types differ by database, so the same lines are written out for both.
macro_rules! rows_for {
    ($connection:ty, $schema:expr) => {
        impl private::Rows for $connection {
            async fn create(&mut self) -> Result<(), sqlx::Error> {
                sqlx::raw_sql($schema).execute(&mut *self).await.map(drop)
            }

            async fn claim(
                &mut self,
                key: &Key,
                column: i16,
                now: i64,
            ) -> Result<bool, sqlx::Error> {
                let claim = sqlx::query(CLAIM)
                    .bind(&key.saga_id)
                    .bind(&key.step)
                    .bind(column)
                    .bind(&[][..] as &[u8]);
                Ok(claim.bind(now).execute(&mut *self).await?.rows_affected() == 1)
            }

            async fn unclaim(&mut self, key: &Key) -> Result<(), sqlx::Error> {
                sqlx::query(UNCLAIM)
                    .bind(&key.saga_id)
                    .bind(&key.step)
                    .execute(&mut *self)
                    .await
                    .map(drop)
            }

            async fn rows(&mut self, key: &Key) -> Result<Found, Error> {
                let rows = sqlx::query_as(READ)
                    .bind(&key.saga_id)
                    .bind(&key.step)
                    .fetch_all(&mut *self)
                    .await?;
                Ok(Found::from_rows(rows)?)
            }

            async fn write(
                &mut self,
                key: &Key,
                column: i16,
                outcome: &RecordedOutcome,
                now: i64,
            ) -> Result<(), sqlx::Error> {
                let (outcome, payload) = outcome.to_columns();
                let write = sqlx::query(WRITE)
                    .bind(&key.saga_id)
                    .bind(&key.step)
                    .bind(column)
                    .bind(outcome);
                write
                    .bind(payload)
                    .bind(now)
                    .execute(&mut *self)
                    .await
                    .map(drop)
            }

            async fn confirm(
                &mut self,
                key: &Key,
                column: i16,
                outcome: &RecordedOutcome,
                now: i64,
            ) -> Result<bool, sqlx::Error> {
                let (outcome, payload) = outcome.to_columns();
                let confirm = sqlx::query(CONFIRM)
                    .bind(&key.saga_id)
                    .bind(&key.step)
                    .bind(column)
                    .bind(outcome);
                let confirmed = confirm.bind(payload).bind(now).execute(&mut *self).await?;
                Ok(confirmed.rows_affected() == 1)
            }

            async fn delete_before(&mut self, millis: i64, limit: i64) -> Result<u64, sqlx::Error> {
                let forget = sqlx::query(FORGET).bind(millis).bind(limit);
                Ok(forget.execute(&mut *self).await?.rows_affected())
            }
        }
    };
}

rows_for!(SqliteConnection, SCHEMA_SQLITE);
rows_for!(PgConnection, SCHEMA_POSTGRES);
