//! Copies of SQLite ledgers, made while they run, and put back.

use std::fs::File;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use uuid::Uuid;

use crate::Error;
use crate::store::sqlite::{explain, lock_file, read_meta};

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The new file.
    pub file: PathBuf,
    /// The log's id in it. A restored log has a new one, so that consumers notice.
    pub log_id: String,
    /// The newest position in it.
    pub head: u64,
}

/// Copies a ledger's SQLite file to `to` while it is in use. The copy is one moment of the log, checked page by page.
///
/// # Errors
/// When `to` exists, or `database` is not a ledger or is damaged.
pub async fn backup(database: &Path, to: &Path) -> Result<Copied, Error> {
    refuse_existing(to)?;
    make_folder_of(to)?;
    let partial = beside(to, ".partial");
    remove(&partial)?;
    let mut source = open(database, true).await?;
    read_meta(&mut source, database).await?;
    sqlx::query("VACUUM INTO $1")
        .bind(partial.display().to_string())
        .execute(&mut source)
        .await
        .map_err(|error| explain(&database.display().to_string(), error))?;
    source.close().await?;
    let (log_id, head) = verify(&partial).await?;
    publish(&partial, to)?;
    Ok(Copied {
        file: to.to_owned(),
        log_id,
        head,
    })
}

/// Puts a backup in the place of a ledger's SQLite file. What was there is kept beside it, with `.replaced` added to its name. The service must not be running.
///
/// # Errors
/// When the backup is damaged or newer than this program, or the database is in use.
pub async fn restore(backup: &Path, database: &Path) -> Result<Copied, Error> {
    make_folder_of(database)?;
    let _lock = lock_file(database)?;
    verify(backup).await?;
    let partial = beside(database, ".partial");
    remove(&partial)?;
    std::fs::copy(backup, &partial).map_err(|error| Error::io(backup, error))?;
    let mut copy = open(&partial, false).await?;
    sqlx::query("UPDATE ledger_meta SET value = $1 WHERE key = 'log_id'")
        .bind(Uuid::now_v7().to_string())
        .execute(&mut copy)
        .await?;
    copy.close().await?;
    let (log_id, head) = verify(&partial).await?;
    for suffix in ["", "-wal", "-shm"] {
        let old = beside(database, suffix);
        let kept = beside(database, &format!(".replaced{suffix}"));
        remove(&kept)?;
        if old.exists() {
            std::fs::rename(&old, &kept).map_err(|error| Error::io(&old, error))?;
        }
    }
    publish(&partial, database)?;
    Ok(Copied {
        file: database.to_owned(),
        log_id,
        head,
    })
}

/// Every SQLite ledger in a data folder and the folders in it, by path relative to it.
///
/// # Errors
/// When the folder cannot be read.
pub fn databases(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).map_err(|error| Error::io(&next, error))? {
            let path = entry.map_err(|error| Error::io(&next, error))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "db")
                && let Ok(relative) = path.strip_prefix(folder)
            {
                found.push(relative.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

async fn open(database: &Path, read_only: bool) -> Result<SqliteConnection, Error> {
    if !database.exists() {
        return Err(Error::io(database, std::io::ErrorKind::NotFound.into()));
    }
    let options = SqliteConnectOptions::new()
        .filename(database)
        .read_only(read_only)
        .disable_statement_logging();
    options
        .connect()
        .await
        .map_err(|error| explain(&database.display().to_string(), error))
}

/// Checks every page and the schema version; returns log id and head.
async fn verify(database: &Path) -> Result<(String, u64), Error> {
    let name = database.display().to_string();
    let mut connection = open(database, true).await?;
    let log_id = read_meta(&mut connection, database).await?;
    let verdict: String = sqlx::query_scalar("PRAGMA integrity_check(1)")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| explain(&name, error))?;
    if verdict != "ok" {
        return Err(Error::Corrupt {
            database: name,
            detail: verdict,
        });
    }
    let head: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(position), 0) FROM ledger_events")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok((log_id.to_string(), head as u64))
}

/// Makes a finished copy visible under its name, durably.
fn publish(partial: &Path, to: &Path) -> Result<(), Error> {
    File::open(partial)
        .and_then(|file| file.sync_all())
        .map_err(|error| Error::io(partial, error))?;
    std::fs::rename(partial, to).map_err(|error| Error::io(to, error))?;
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| Error::io(folder, error))?;
    }
    Ok(())
}

fn refuse_existing(to: &Path) -> Result<(), Error> {
    match to.exists() {
        true => Err(Error::Config(format!(
            "{} exists: choose another name, or move it away",
            to.display()
        ))),
        false => Ok(()),
    }
}

fn make_folder_of(file: &Path) -> Result<(), Error> {
    match file.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error)),
        None => Ok(()),
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(file: &Path) -> Result<(), Error> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(file, error)),
        _ => Ok(()),
    }
}
