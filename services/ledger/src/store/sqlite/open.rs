//! Opening a SQLite ledger: creating its tables, or refusing what is not one.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::Error;
use crate::store::schema;

/// Files up to this size are checked page by page at every open.
const CHECKED_BYTES: u64 = 16 << 20;

/// Makes sure that no other process writes.
pub(crate) fn lock_file(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = Path::new(&name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock)
        .map_err(|error| Error::io(lock, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            database: path.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::io(lock, error)),
    }
}

/// What an error means for the person who runs the process.
pub(crate) fn explain(database: &str, error: sqlx::Error) -> Error {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok());
    match code.map(|code| code & 0xff) {
        Some(11 | 26) => Error::Corrupt {
            database: database.to_owned(),
            detail: error.to_string(),
        },
        Some(13) => Error::Full {
            database: database.to_owned(),
        },
        _ => error.into(),
    }
}

/// Creates the tables or checks them. Returns the log id and the head.
pub(crate) async fn prepare(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(Arc<str>, u64), Error> {
    let name = path.display().to_string();
    if tables(connection, &name).await? == 0 {
        create(connection)
            .await
            .map_err(|error| explain(&name, error))?;
    }
    let log_id = read_meta(connection, path).await?;
    let head: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(position), 0) FROM ledger_events")
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| explain(&name, error))?;
    if std::fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED_BYTES) {
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| explain(&name, error))?;
        if verdict != "ok" {
            return Err(Error::Corrupt {
                database: name,
                detail: verdict,
            });
        }
    }
    Ok((log_id, head as u64))
}

/// Checks that the file is a ledger of a known version, and returns its log id.
pub(crate) async fn read_meta(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Arc<str>, Error> {
    let name = path.display().to_string();
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT CAST(value AS INTEGER) FROM ledger_meta WHERE key = 'schema_version'",
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(|error| Error::Corrupt {
        database: name.clone(),
        detail: error.to_string(),
    })?;
    let usable_from: Option<i64> = sqlx::query_scalar(
        "SELECT CAST(value AS INTEGER) FROM ledger_meta WHERE key = 'usable_from'",
    )
    .fetch_optional(&mut *connection)
    .await?;
    match found {
        Some(version) if !schema::is_usable(version, usable_from, schema::VERSION) => {
            return Err(Error::Newer {
                database: name,
                found: version,
                known: schema::VERSION,
            });
        }
        Some(version) if version >= schema::VERSION => {}
        _ => {
            return Err(Error::Corrupt {
                database: name,
                detail: "it has no valid schema version".into(),
            });
        }
    }
    let log_id: Option<String> =
        sqlx::query_scalar("SELECT value FROM ledger_meta WHERE key = 'log_id'")
            .fetch_optional(&mut *connection)
            .await?;
    log_id.map(Into::into).ok_or(Error::Corrupt {
        database: name,
        detail: "it has no log id".into(),
    })
}

async fn tables(connection: &mut SqliteConnection, name: &str) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_schema")
        .fetch_one(connection)
        .await
        .map_err(|error| explain(name, error))
}

async fn create(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let sql = format!(
        "BEGIN IMMEDIATE; {} INSERT INTO ledger_meta (key, value) VALUES ('schema_version', '{}'), ('usable_from', '{}'), ('log_id', '{}'); COMMIT",
        schema::SQLITE,
        schema::VERSION,
        schema::USABLE_FROM,
        Uuid::now_v7()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(|_| ())
}
