//! SQL written once for SQLite and PostgreSQL.
//!
//! Use `$1`, `$2`, ... for parameters and the types `BIGINT`, `TEXT` and `BLOB` in tables (`BLOB`, `INTEGER` and `REAL` in a
//! schema become `BYTEA`, `BIGINT` and `DOUBLE PRECISION` on PostgreSQL; a bool is a `BIGINT` of 0 or 1). `INSERT ... ON CONFLICT (...) DO
//! UPDATE SET`, `RETURNING`, `LIMIT` and `CAST(SUM(x) AS BIGINT)` work on both.
//!
//! ```ignore
//! tx.execute("INSERT INTO orders (id, state, total) VALUES ($1, $2, $3)", params![id, "PENDING", 1200]).await?;
//! for row in ledger.reader().fetch_all("SELECT id, total FROM orders WHERE state = $1", params!["PENDING"]).await? {
//!     let id: String = row.get("id")?;
//! }
//! ```

use std::borrow::Cow;
use std::sync::Arc;

mod at_once;
mod streams;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, Postgres, Row as _, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::Error;
use crate::store::postgres::{Connections, Held};
use crate::store::simulated::SimulatedDisk;
use crate::store::sqlite::Writer;

pub(crate) use at_once::at_once;
pub use sqlx::{AssertSqlSafe as Dynamic, SqlSafeStr};

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Dialect {
    /// Schema text in this dialect: the types `BLOB`, `INTEGER` and `REAL` are named as PostgreSQL names them.
    pub fn schema<'a>(self, sql: &'a str) -> Cow<'a, str> {
        match self {
            Dialect::Sqlite => Cow::Borrowed(sql),
            Dialect::Postgres => {
                let mut text = String::with_capacity(sql.len() + 16);
                let mut word = String::new();
                for char in sql.chars().chain(['\n']) {
                    if char.is_alphanumeric() || char == '_' {
                        word.push(char);
                        continue;
                    }
                    text.push_str(match word.as_str() {
                        "BLOB" => "BYTEA",
                        "INTEGER" => "BIGINT",
                        "REAL" => "DOUBLE PRECISION",
                        other => other,
                    });
                    word.clear();
                    text.push(char);
                }
                text.pop();
                Cow::Owned(text)
            }
        }
    }
}

/// One parameter. Made by [`params!`](crate::params).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer or bool.
    Int(Option<i64>),
    /// A floating point number.
    Real(Option<f64>),
    /// Text.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

macro_rules! value_from {
    ($($type:ty => $variant:ident, $value:ident => $convert:expr;)*) => {$(
        impl From<$type> for Value {
            fn from($value: $type) -> Self { Value::$variant(Some($convert)) }
        }
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Self { Value::$variant(value.map(|$value| $convert)) }
        }
    )*};
}

value_from! {
    i64 => Int, value => value;
    i32 => Int, value => i64::from(value);
    u32 => Int, value => i64::from(value);
    u64 => Int, value => value as i64;
    usize => Int, value => value as i64;
    bool => Int, value => i64::from(value);
    f64 => Real, value => value;
    String => Text, value => value;
    &str => Text, value => value.to_owned();
    &String => Text, value => value.clone();
    Vec<u8> => Bytes, value => value;
    &[u8] => Bytes, value => value.to_vec();
}

impl From<&crate::StreamId> for Value {
    fn from(stream: &crate::StreamId) -> Self {
        Value::Text(Some(stream.as_str().to_owned()))
    }
}

/// Parameters of a statement, in the order of `$1`, `$2`, ...
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { ::std::vec![$($crate::sql::Value::from($value)),*] };
}

/// One row of an answer.
pub enum Row {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From PostgreSQL.
    Postgres(PgRow),
}

impl Row {
    /// The value of a column, by name or index.
    pub fn get<T: Column>(&self, column: impl ColumnIndex) -> Result<T, Error> {
        T::read(self, &column)
    }
}

/// The name or number of a column.
pub trait ColumnIndex: sqlx::ColumnIndex<SqliteRow> + sqlx::ColumnIndex<PgRow> {}
impl<T: sqlx::ColumnIndex<SqliteRow> + sqlx::ColumnIndex<PgRow>> ColumnIndex for T {}

/// A type that a column can be read as.
pub trait Column: Sized {
    /// Reads it.
    fn read<I: ColumnIndex>(row: &Row, index: &I) -> Result<Self, Error>;
}

macro_rules! column {
    ($($type:ty => $stored:ty, $value:ident => $convert:expr;)*) => {$(
        impl Column for $type {
            fn read<I: ColumnIndex>(row: &Row, index: &I) -> Result<Self, Error> {
                // SQLite would read a NULL as 0 or as empty.
                let null = || Error::Sql(Arc::new(sqlx::Error::Decode(Box::new(sqlx::error::UnexpectedNullError))));
                Option::<$type>::read(row, index)?.ok_or_else(null)
            }
        }
        impl Column for Option<$type> {
            fn read<I: ColumnIndex>(row: &Row, index: &I) -> Result<Self, Error> {
                let stored: Option<$stored> = match row {
                    Row::Sqlite(row) => row.try_get(index)?,
                    Row::Postgres(row) => row.try_get(index)?,
                };
                Ok(match stored { Some($value) => Some($convert), None => None })
            }
        }
    )*};
}

column! {
    i64 => i64, value => value;
    u64 => i64, value => value as u64;
    i32 => i64, value => i32::try_from(value).map_err(|error| Error::Sql(Arc::new(sqlx::Error::Decode(error.into()))))?;
    u32 => i64, value => u32::try_from(value).map_err(|error| Error::Sql(Arc::new(sqlx::Error::Decode(error.into()))))?;
    bool => i64, value => value != 0;
    f64 => f64, value => value;
    String => String, value => value;
    Vec<u8> => Vec<u8>, value => value;
}

/// Read-only connections, for queries. Cheap to clone.
#[derive(Clone)]
pub struct Sql(pub(crate) Pool);

#[derive(Clone)]
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    /// One connection of a simulation: see [`at_once()`]. A pool takes its connections back in tasks, which could not run meanwhile.
    /// The disk is asked before whether it can be reached.
    AtOnce(Arc<Mutex<SqliteConnection>>, Option<SimulatedDisk>),
    Postgres(Connections),
}

impl Sql {
    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match &self.0 {
            Pool::Sqlite(_) | Pool::AtOnce(..) => Dialect::Sqlite,
            Pool::Postgres(_) => Dialect::Postgres,
        }
    }

    /// The same connection for a process that reaches it as it reaches this disk.
    pub(crate) fn asking(&self, disk: &SimulatedDisk) -> Self {
        match &self.0 {
            Pool::AtOnce(connection, _) => {
                Self(Pool::AtOnce(Arc::clone(connection), Some(disk.clone())))
            }
            _ => self.clone(),
        }
    }

    /// All rows of a query. SQL built at run time is wrapped in [`Dynamic`].
    pub async fn fetch_all(
        &self,
        sql: impl SqlSafeStr,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        match &self.0 {
            Pool::Sqlite(pool) => {
                let rows = sqlx::query_with::<Sqlite, _>(sql, sqlite(params)?)
                    .fetch_all(pool)
                    .await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Pool::AtOnce(connection, disk) => {
                if let Some(disk) = disk {
                    disk.ping().await?;
                }
                let query = sqlx::query_with::<Sqlite, _>(sql, sqlite(params)?);
                let mut connection = connection.lock().await;
                let rows = at_once(true, query.fetch_all(&mut *connection)).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Pool::Postgres(pool) => {
                let rows = sqlx::query_with::<Postgres, _>(sql, postgres(params)?)
                    .fetch_all(&mut pool.acquire().await?)
                    .await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// The first row of a query, if there is one.
    pub async fn fetch_optional(
        &self,
        sql: impl SqlSafeStr,
        params: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        match &self.0 {
            Pool::Sqlite(pool) => {
                let row = sqlx::query_with::<Sqlite, _>(sql, sqlite(params)?)
                    .fetch_optional(pool)
                    .await?;
                Ok(row.map(Row::Sqlite))
            }
            Pool::AtOnce(connection, disk) => {
                if let Some(disk) = disk {
                    disk.ping().await?;
                }
                let query = sqlx::query_with::<Sqlite, _>(sql, sqlite(params)?);
                let mut connection = connection.lock().await;
                let row = at_once(true, query.fetch_optional(&mut *connection)).await?;
                Ok(row.map(Row::Sqlite))
            }
            Pool::Postgres(pool) => {
                let row = sqlx::query_with::<Postgres, _>(sql, postgres(params)?)
                    .fetch_optional(&mut pool.acquire().await?)
                    .await?;
                Ok(row.map(Row::Postgres))
            }
        }
    }
}

/// A transaction on the writer. It is rolled back when it is dropped without commit.
pub struct Tx(pub(crate) Connection);

pub(crate) enum Connection {
    Sqlite(OwnedMutexGuard<Writer>),
    Postgres(Held),
}

impl Tx {
    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match &self.0 {
            Connection::Sqlite(_) => Dialect::Sqlite,
            Connection::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Runs a statement and returns how many rows it changed.
    pub async fn execute(
        &mut self,
        sql: impl SqlSafeStr,
        params: Vec<Value>,
    ) -> Result<u64, Error> {
        Ok(match &mut self.0 {
            Connection::Sqlite(writer) => {
                let query = sqlx::query_with::<Sqlite, _>(sql, sqlite(params)?);
                at_once(writer.at_once, query.execute(&mut writer.connection))
                    .await?
                    .rows_affected()
            }
            Connection::Postgres(tx) => sqlx::query_with::<Postgres, _>(sql, postgres(params)?)
                .execute(&mut *tx)
                .await?
                .rows_affected(),
        })
    }

    /// All rows of a query.
    pub async fn fetch_all(
        &mut self,
        sql: impl SqlSafeStr,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        Ok(match &mut self.0 {
            Connection::Sqlite(writer) => {
                let query = sqlx::query_with::<Sqlite, _>(sql, sqlite(params)?);
                let rows = at_once(writer.at_once, query.fetch_all(&mut writer.connection)).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(tx) => {
                let rows = sqlx::query_with::<Postgres, _>(sql, postgres(params)?)
                    .fetch_all(&mut *tx)
                    .await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// The first row of a query, if there is one.
    pub async fn fetch_optional(
        &mut self,
        sql: impl SqlSafeStr,
        params: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        Ok(match &mut self.0 {
            Connection::Sqlite(writer) => {
                let query = sqlx::query_with::<Sqlite, _>(sql, sqlite(params)?);
                at_once(writer.at_once, query.fetch_optional(&mut writer.connection))
                    .await?
                    .map(Row::Sqlite)
            }
            Connection::Postgres(tx) => sqlx::query_with::<Postgres, _>(sql, postgres(params)?)
                .fetch_optional(&mut *tx)
                .await?
                .map(Row::Postgres),
        })
    }

    /// Runs one statement for many rows, as few statements as possible: `head` is `INSERT INTO t (a, b) VALUES`, `tail` what follows
    /// the rows, for example `ON CONFLICT (a) DO UPDATE SET b = excluded.b`. Every row has the same number of values. On PostgreSQL one
    /// call must not name the same conflict key twice.
    pub async fn execute_rows(
        &mut self,
        head: &str,
        rows: Vec<Vec<Value>>,
        tail: &str,
    ) -> Result<u64, Error> {
        const SIZES: [usize; 4] = [64, 16, 4, 1];
        let numbered = self.dialect() == Dialect::Postgres;
        let mut changed = 0;
        let mut rows = rows.into_iter().peekable();
        while let Some(width) = rows.peek().map(Vec::len) {
            let size = SIZES
                .into_iter()
                .find(|size| *size <= rows.len())
                .unwrap_or(1);
            let mut sql = String::with_capacity(head.len() + tail.len() + size * width * 5);
            sql.push_str(head);
            for row in 0..size {
                sql.push_str(if row == 0 { " (" } else { ", (" });
                for column in 0..width {
                    let comma = if column == 0 { "" } else { ", " };
                    sql.push_str(comma);
                    if numbered {
                        sql.push_str(&format!("${}", row * width + column + 1));
                    } else {
                        // SQLite's driver looks numbers up by name, one after the other.
                        sql.push('?');
                    }
                }
                sql.push(')');
            }
            sql.push(' ');
            sql.push_str(tail);
            let params = rows.by_ref().take(size).flatten().collect();
            changed += self.execute(Dynamic(sql), params).await?;
        }
        Ok(changed)
    }

    /// Runs a script without parameters: a schema. `BLOB`, `INTEGER` and `REAL` are translated.
    pub async fn script(&mut self, sql: &str) -> Result<(), Error> {
        let sql = self.dialect().schema(sql).into_owned();
        match &mut self.0 {
            Connection::Sqlite(writer) => {
                let script = sqlx::raw_sql(Dynamic(sql));
                at_once(writer.at_once, script.execute(&mut writer.connection)).await?;
            }
            Connection::Postgres(tx) => {
                sqlx::raw_sql(Dynamic(sql)).execute(&mut *tx).await?;
            }
        }
        Ok(())
    }
}

/// Parameters as SQLite takes them.
fn sqlite(params: Vec<Value>) -> Result<SqliteArguments, Error> {
    let mut arguments = SqliteArguments::default();
    for value in params {
        match value {
            Value::Int(value) => arguments.add(value),
            Value::Real(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value),
            Value::Bytes(value) => arguments.add(value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// Parameters as PostgreSQL takes them.
fn postgres(params: Vec<Value>) -> Result<PgArguments, Error> {
    let mut arguments = PgArguments::default();
    for value in params {
        match value {
            Value::Int(value) => arguments.add(value),
            Value::Real(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value.map(without_nul)),
            Value::Bytes(value) => arguments.add(value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// PostgreSQL has no NUL in texts and refuses the statement. What a stranger wrote must not stop a projection for ever: its tables show it with the sign
/// for what cannot be shown, and a search for it finds it so.
fn without_nul(text: String) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{FFFD}"),
        false => text,
    }
}
