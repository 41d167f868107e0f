//! Connections to PostgreSQL that are given up when it does not answer.
//!
//! A path to the database can vanish without a word: what was sent is then waited for as long as TCP tries again, a quarter of an hour, and
//! what was not sent for ever. sqlx limits only how long a connection is waited for.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{TryStreamExt as _, future::BoxFuture};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo,
};
use sqlx::{
    Connection as _, Describe, Either, Execute, Executor, PgConnection, PgPool, Postgres, SqlStr,
};
use tokio::runtime::Handle;
use tokio::time::{error::Elapsed, timeout};

/// How long a statement may take. A commit on a healthy disk takes milliseconds, a few seconds behind a checkpoint or behind another replica's commits;
/// whoever calls has given up after ten, and so have others that wait for this replica's lease.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a connection may take to say that it is still there, before it is used. The round trip makes of a restart of the server a wait instead of an
/// error, and a lease survives a connection that is dead.
const LOOK: Duration = Duration::from_secs(1);

/// The server's own limit is just below: a statement that is only slow, or waits for a lock, is then ended with a reason, and its connection stays.
const STATEMENT: &str = "9s";

/// What a server notices of a client that is gone: its locks are free, and its session ends, after about half a minute.
const GONE: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "4"),
    ("tcp_user_timeout", "30s"),
];

/// A pool whose statements have a limit.
#[derive(Clone)]
pub(crate) struct Connections {
    pool: PgPool,
    /// What to call the database in messages.
    database: Arc<str>,
    within: Duration,
}

impl Connections {
    pub(super) fn new(size: u32, options: PgConnectOptions, database: &Arc<str>) -> Self {
        let options = options
            .options(GONE)
            .options([("statement_timeout", STATEMENT)]);
        let pool = PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(ANSWER)
            .test_before_acquire(false)
            .before_acquire(|connection, _| Box::pin(look(connection)))
            .connect_lazy_with(options);
        Self {
            pool,
            database: Arc::clone(database),
            within: ANSWER,
        }
    }

    /// The same connections for whoever cannot wait as long.
    pub(super) fn within(&self, within: Duration) -> Self {
        Self {
            within: within.min(ANSWER),
            ..self.clone()
        }
    }

    /// One of them, for single statements.
    pub(crate) async fn acquire(&self) -> Result<Held, sqlx::Error> {
        Ok(Held {
            live: Some(self.pool.acquire().await?),
            open: false,
            database: Arc::clone(&self.database),
            within: self.within,
        })
    }

    /// A transaction. It is rolled back when it is dropped without commit.
    pub(super) async fn begin(&self) -> Result<Held, sqlx::Error> {
        let mut held = self.acquire().await?;
        held.open = true;
        held.execute("BEGIN").await?;
        Ok(held)
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// One connection of a pool. It goes back there if it still answers.
pub(crate) struct Held {
    /// None once it was given up.
    live: Option<PoolConnection<Postgres>>,
    /// A transaction may be open.
    open: bool,
    database: Arc<str>,
    within: Duration,
}

impl Held {
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.execute("COMMIT").await?;
        self.open = false;
        Ok(())
    }

    fn live(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        match &mut self.live {
            Some(live) => Ok(live),
            None => Err(unanswered(&self.database, self.within)),
        }
    }

    /// Without an answer the connection is closed as it is: neither a goodbye nor a look whether it is still there would be answered.
    fn heard<T>(
        &mut self,
        asked: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, sqlx::Error> {
        asked.unwrap_or_else(|_| {
            drop(self.live.take().map(PoolConnection::detach));
            Err(unanswered(&self.database, self.within))
        })
    }
}

/// Whether a connection of the pool is still there. Otherwise the pool opens another one, in the time that is left of its own limit.
async fn look(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    Ok(matches!(timeout(LOOK, connection.ping()).await, Ok(Ok(()))))
}

fn unanswered(database: &str, within: Duration) -> sqlx::Error {
    let seconds = within.as_secs_f64();
    let words = format!(
        "{database} did not answer within {seconds} s, so the connection was closed and the next statement opens another one; if this goes on, look at the \
         network between and at what the database is busy with"
    );
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, words))
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut connection) = self.live.take() else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            return drop(connection.detach());
        };
        let open = self.open;
        // What sqlx does as well, but without a limit: it reads what a statement that nobody waits for has left, and asks whether it is still there.
        runtime.spawn(async move {
            let clean = match open {
                true => timeout(ANSWER, connection.execute("ROLLBACK")).await,
                false => Ok(Ok(PgQueryResult::default())),
            };
            match clean {
                Ok(Ok(_)) => drop(timeout(ANSWER, connection.return_to_pool()).await),
                _ => drop(connection.detach()),
            }
        });
    }
}

impl<'c> Executor<'c> for &'c mut Held {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let answer = async move {
            let within = self.within;
            let rows = self.live()?.fetch_many(query).try_collect::<Vec<_>>();
            let asked = timeout(within, rows).await;
            Ok::<_, sqlx::Error>(stream::iter(self.heard(asked)?.into_iter().map(Ok)))
        };
        Box::pin(stream::once(answer).try_flatten())
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let within = self.within;
            let asked = timeout(within, self.live()?.fetch_optional(query)).await;
            self.heard(asked)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let within = self.within;
            let asked = timeout(within, self.live()?.prepare_with(sql, parameters)).await;
            self.heard(asked)
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let within = self.within;
            let asked = timeout(within, self.live()?.describe(sql)).await;
            self.heard(asked)
        })
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.database).finish()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.database).finish()
    }
}
