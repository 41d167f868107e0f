//! The cases that every participant library must pass, in whatever language: `clients/conformance` says what a script means.

mod database;
mod messages;
mod process;
mod script;

use std::path::Path;

use database::{Database, Postgres, Sqlite};

/// Runs every case on a new database; a case that fails does not keep the others from running.
async fn all<D: Database>() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/conformance/cases");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 28, "only {} cases were found", paths.len());
    let mut failed = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let Some(database) = D::create().await else {
            return;
        };
        let case = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        // What went wrong is in the panic's own message, after the line that is printed before it.
        if tokio::spawn(script::run(name.clone(), case, database))
            .await
            .is_err()
        {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "these cases failed: {failed:?}");
}

#[tokio::test]
async fn on_sqlite() {
    all::<Sqlite>().await;
}

#[tokio::test]
async fn on_postgres() {
    all::<Postgres>().await;
}
