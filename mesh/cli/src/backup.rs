//! Backup and restore of a system's SQLite databases.
//!
//! A backup holds the write locks of all databases at once while it copies them: it is the system at one instant, as after
//! a power cut, from which every saga goes on. Meanwhile reads go on and writes wait.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::args::Common;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::system::{Lock, System, private_folder};

/// What else a system needs: the gateway's development keys.
const FILES: [&str; 2] = ["dev-signing-key.pem", "jwks.json"];
/// What to do when a folder is not what a backup or a restore needs.
const HINT: &str = "`backup` reads the folder of --data-dir; `restore` takes a folder that `sagamesh backup` wrote.";
/// How long to wait for a writer to finish.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn backup(common: &Common, target: &Path) -> anyhow::Result<ExitCode> {
    if System::find(&common.data_dir).is_ok_and(|system| system.postgres) {
        return Err(
            Failure::new(Exit::Refused, "this system keeps its data in PostgreSQL")
                .hint("Use pg_dump, or your server's own backups.")
                .into(),
        );
    }
    let databases = databases(&common.data_dir)?;
    if std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(
            Failure::new(Exit::Refused, format!("{} is not empty", target.display()))
                .hint("Name a new folder.")
                .into(),
        );
    }
    private_folder(target)?;
    let mut frozen = Vec::new();
    for path in &databases {
        frozen.push(freeze(path).await?);
    }
    for path in &databases {
        let copy = target.join(path.file_name().context("a database without a name")?);
        copy_database(path, &copy).await?;
    }
    for mut connection in frozen {
        sqlx::query("ROLLBACK")
            .execute(&mut connection)
            .await
            .context("cannot let go of a database")?;
        connection
            .close()
            .await
            .context("cannot close a database")?;
    }
    for name in FILES {
        let source = common.data_dir.join(name);
        if source.is_file() {
            std::fs::copy(&source, target.join(name))
                .with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    output::line(&format!(
        "{} databases are in {}",
        databases.len(),
        target.display()
    ));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn restore(common: &Common, source: &Path) -> anyhow::Result<ExitCode> {
    let backups = databases(source)?;
    for path in &backups {
        check(path).await?;
    }
    let _lock = Lock::take(&common.data_dir)?;
    let replaced = common.data_dir.join(format!(
        "replaced-{}",
        time::OffsetDateTime::now_utc().unix_timestamp()
    ));
    let mut aside = 0;
    for entry in std::fs::read_dir(&common.data_dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if [".db", ".db-wal", ".db-shm"]
            .iter()
            .any(|ending| name.ends_with(ending))
        {
            private_folder(&replaced)?;
            std::fs::rename(&path, replaced.join(&name))
                .with_context(|| format!("cannot move {} aside", path.display()))?;
            aside += usize::from(name.ends_with(".db"));
        }
    }
    let files = FILES.map(|name| source.join(name));
    for path in backups
        .iter()
        .chain(files.iter().filter(|path| path.is_file()))
    {
        let target = common
            .data_dir
            .join(path.file_name().context("a file without a name")?);
        std::fs::copy(path, &target)
            .with_context(|| format!("cannot copy {} to {}", path.display(), target.display()))?;
    }
    let kept = if aside > 0 {
        format!(
            "; the {aside} that were there are in {}",
            replaced.display()
        )
    } else {
        String::new()
    };
    output::line(&format!("{} databases are in place{kept}", backups.len()));
    Ok(ExitCode::SUCCESS)
}

/// The databases of a folder, by name.
fn databases(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(
                Exit::Refused,
                format!("there is no folder {}", folder.display()),
            )
            .hint(HINT)
            .into());
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read the folder {}", folder.display()));
        }
    };
    let mut databases: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "db"))
        .collect();
    databases.sort();
    if databases.is_empty() {
        return Err(Failure::new(
            Exit::Refused,
            format!("{} holds no databases", folder.display()),
        )
        .hint(HINT)
        .into());
    }
    Ok(databases)
}

async fn open(path: &Path) -> anyhow::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(PATIENCE);
    options
        .connect()
        .await
        .with_context(|| format!("cannot open {}", path.display()))
}

/// A connection that keeps all others from writing.
async fn freeze(path: &Path) -> anyhow::Result<SqliteConnection> {
    let mut connection = open(path).await?;
    let begun = sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut connection)
        .await;
    begun.with_context(|| format!("cannot hold {} still", path.display()))?;
    Ok(connection)
}

async fn copy_database(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut connection = open(from).await?;
    let target = to.to_str().context("the folder's name is no valid text")?;
    let copied = sqlx::query("VACUUM INTO $1")
        .bind(target)
        .execute(&mut connection)
        .await;
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    connection.close().await.context("cannot close a database")
}

/// Refuses a backup that is damaged.
async fn check(path: &Path) -> anyhow::Result<()> {
    let mut connection = open(path).await?;
    let answer: Result<String, _> = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut connection)
        .await;
    match answer {
        Ok(answer) if answer == "ok" => Ok(connection.close().await?),
        Ok(answer) => Err(Failure::new(
            Exit::Refused,
            format!("{} is damaged: {answer}", path.display()),
        )
        .into()),
        Err(error) => Err(Failure::new(
            Exit::Refused,
            format!("{} is damaged: {error}", path.display()),
        )
        .into()),
    }
}
