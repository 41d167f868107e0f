//! The databases of a participant under test: the barrier's table, and a table of what was done.

use std::time::Duration;

use participant::barrier::{Key, sql};
use participant::{Direction, Outcome};
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{PgConnection, PgPool, SqliteConnection, SqlitePool};

/// A new, empty database.
pub(crate) trait Database: Clone + Send + Sync + 'static {
    /// None when its server is not on this machine.
    fn create() -> impl Future<Output = Option<Self>> + Send;

    /// One transaction behind the barrier: the note of what is done, if there is one to make, then the handler's `end`.
    fn guarded<F: Future<Output = Outcome> + Send>(
        &self,
        key: &Key,
        note: bool,
        end: F,
    ) -> impl Future<Output = Outcome> + Send;

    /// What was done for a saga.
    fn effects(&self, saga: &str) -> impl Future<Output = Vec<String>> + Send;
}

fn now_millis() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn word(key: &Key) -> &'static str {
    match key.direction {
        Direction::Compensation => "compensation",
        Direction::Action | Direction::Unspecified => "action",
    }
}

/// A file of its own, which goes with the last clone.
#[derive(Clone)]
pub(crate) struct Sqlite(
    SqlitePool,
    #[expect(dead_code, reason = "kept")] std::sync::Arc<tempfile::TempDir>,
);

/// A database of its own on the tests' server.
#[derive(Clone)]
pub(crate) struct Postgres(PgPool);

/// sqlx's types differ by database, so the same lines are written out for both.
macro_rules! transactions {
    ($connection:ty) => {
        async fn guarded<F: Future<Output = Outcome> + Send>(
            &self,
            key: &Key,
            note: bool,
            end: F,
        ) -> Outcome {
            let mut connection = self.0.acquire().await.unwrap();
            let (saga, what) = (key.saga_id.clone(), word(key));
            let work = async move |tx: &mut $connection| {
                if note {
                    let insert = sqlx::query("INSERT INTO effects (saga_id, what) VALUES ($1, $2)");
                    insert.bind(saga).bind(what).execute(tx).await?;
                }
                Ok(end.await)
            };
            sql::guarded(&mut *connection, key, now_millis, work).await
        }

        async fn effects(&self, saga: &str) -> Vec<String> {
            let query = sqlx::query_scalar("SELECT what FROM effects WHERE saga_id = $1");
            query.bind(saga).fetch_all(&self.0).await.unwrap()
        }
    };
}

const EFFECTS: &str = "CREATE TABLE effects (saga_id TEXT, what TEXT)";

impl Database for Sqlite {
    async fn create() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("test.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(5));
        let pool = PoolOptions::new().max_connections(4);
        let pool = pool.connect_with(options).await.unwrap();
        sqlx::query(EFFECTS).execute(&pool).await.unwrap();
        sql::create_table(&mut *pool.acquire().await.unwrap())
            .await
            .unwrap();
        Some(Self(pool, std::sync::Arc::new(folder)))
    }

    transactions!(SqliteConnection);
}

impl Database for Postgres {
    async fn create() -> Option<Self> {
        let url = ledger::testing::postgres().await?.database().await;
        let pool = PoolOptions::new().max_connections(4);
        let pool = pool.connect(&url).await.unwrap();
        sqlx::query(EFFECTS).execute(&pool).await.unwrap();
        sql::create_table(&mut *pool.acquire().await.unwrap())
            .await
            .unwrap();
        Some(Self(pool))
    }

    transactions!(PgConnection);
}
