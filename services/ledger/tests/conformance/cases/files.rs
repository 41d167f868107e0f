//! SQLite files that are refused, copied and put back; PostgreSQL databases that are refused.

use std::path::Path;
use std::time::Duration;

use ledger::{CommitterOptions, Error, StoreConfig, params};
use sqlx::Connection as _;

use crate::accounts::{Command, account};
use crate::bench::{Bench, open, script};

async fn refusal(folder: &Path) -> Error {
    let config = StoreConfig::sqlite(folder, "test");
    open(config, CommitterOptions::default(), 1)
        .await
        .err()
        .expect("it is refused")
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("test.db"),
        "this is a letter to my grandmother, not a database",
    )
    .expect("written");
    let error = refusal(folder.path()).await;
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(
        error.to_string().contains("restore it from a backup"),
        "{error}"
    );
}

#[tokio::test]
async fn a_page_in_the_middle_that_is_damaged_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = open(
        StoreConfig::sqlite(folder.path(), "test"),
        CommitterOptions::default(),
        1,
    )
    .await
    .expect("opens");
    let adding = (0..2000).map(|number| {
        opened
            .ledger
            .execute(Command::AddTo(account(&format!("n{number:050}")), 1))
    });
    assert!(
        futures_util::future::join_all(adding)
            .await
            .iter()
            .all(Result::is_ok)
    );
    opened.close().await;
    let file = folder.path().join("test.db");
    let mut bytes = std::fs::read(&file).expect("read");
    let pages = bytes.len() / 4096;
    for page in 2..pages {
        bytes[page * 4096 + 8..page * 4096 + 200].fill(0x5a);
    }
    std::fs::write(&file, bytes).expect("written");
    let error = refusal(folder.path()).await;
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn another_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join("test.db"))
        .create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("made");
    sqlx::raw_sql("CREATE TABLE photos (id)")
        .execute(&mut connection)
        .await
        .expect("made");
    connection.close().await.expect("closed");
    let error = refusal(folder.path()).await;
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    for bench in [Some(Bench::sqlite()), Bench::postgres().await]
        .into_iter()
        .flatten()
    {
        let opened = bench.open().await;
        script(
            &opened,
            "UPDATE ledger_meta SET value = '999' WHERE key IN ('schema_version', 'usable_from')",
        )
        .await;
        opened.close().await;
        let error = open(bench.config(), CommitterOptions::default(), 1)
            .await
            .err()
            .expect("it is refused");
        assert!(matches!(error, Error::Newer { found: 999, .. }), "{error}");
        assert!(
            error.to_string().contains("start the newer program"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_foreign_postgres_schema_is_refused() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let opened = bench.open().await;
    script(&opened, "DROP TABLE ledger_meta").await;
    opened.close().await;
    let error = open(bench.config(), CommitterOptions::default(), 1)
        .await
        .err()
        .expect("it is refused");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_database_url_that_is_wrong_is_said_without_its_password() {
    let config = StoreConfig::postgres("mysql://root:secret@localhost", "test");
    let error = open(config, CommitterOptions::default(), 1)
        .await
        .err()
        .expect("it is refused");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_file_has_one_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = open(
        StoreConfig::sqlite(folder.path(), "test"),
        CommitterOptions::default(),
        1,
    )
    .await
    .expect("opens");
    let error = refusal(folder.path()).await;
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(
        ledger::restore(
            &folder.path().join("test.db"),
            &folder.path().join("test.db")
        )
        .await
        .is_err()
    );
    opened.close().await;
}

#[tokio::test]
async fn a_backup_made_while_it_runs_is_restored_with_a_new_log_id() {
    let (folder, kept) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let config = || StoreConfig::sqlite(folder.path(), "test");
    let opened = open(config(), CommitterOptions::default(), 1)
        .await
        .expect("opens");
    opened
        .ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    let ledger = opened.ledger.clone();
    let writing = tokio::spawn(async move {
        while ledger.head() < 300 {
            ledger.execute(Command::Add("a", 1)).await.expect("added");
        }
    });
    let database = config().sqlite_path();
    assert_eq!(
        ledger::databases(folder.path()).expect("listed"),
        [Path::new("test.db")]
    );
    let to = kept.path().join("folder/copy.db");
    let copied = ledger::backup(&database, &to).await.expect("copied");
    assert!(copied.head >= 1 && *copied.log_id == *opened.ledger.log_id());
    let again = ledger::backup(&database, &to).await;
    assert!(matches!(again, Err(Error::Config(_))), "{again:?}");
    writing.await.expect("written");
    let old_id = opened.ledger.log_id();
    opened.close().await;

    let restored = ledger::restore(&to, &database).await.expect("restored");
    assert_eq!(restored.head, copied.head);
    assert_ne!(*restored.log_id, *old_id);
    assert!(folder.path().join("test.db.replaced").exists());
    let opened = open(config(), CommitterOptions::default(), 1)
        .await
        .expect("opens");
    assert_eq!(opened.ledger.head(), copied.head);
    assert_eq!(
        opened.balance("account/a", copied.head).await,
        Some(4 + copied.head as i64)
    );
    assert_eq!(
        opened
            .ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("added")
            .position,
        copied.head + 1
    );
    opened.close().await;

    let mut bytes = std::fs::read(&to).expect("read");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&to, bytes).expect("written");
    let error = ledger::restore(&to, &database).await.expect_err("refused");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn old_inbox_rows_are_deleted() {
    for bench in [Some(Bench::sqlite()), Bench::postgres().await]
        .into_iter()
        .flatten()
    {
        let opened = bench.open().await;
        let requests = (0..50).map(|number| {
            opened
                .ledger
                .execute(Command::Request(format!("r{number}"), "a", 1))
        });
        assert!(
            futures_util::future::join_all(requests)
                .await
                .iter()
                .all(Result::is_ok)
        );
        opened.close().await;
        let options = CommitterOptions {
            inbox_retention: Duration::ZERO,
            ..CommitterOptions::default()
        };
        let opened = bench.open_with(options, 1).await;
        let empty = async {
            loop {
                let row = opened
                    .ledger
                    .reader()
                    .fetch_optional("SELECT COUNT(*) FROM ledger_inbox", params![])
                    .await;
                if row
                    .expect("a query")
                    .expect("a row")
                    .get::<i64>(0)
                    .expect("a number")
                    == 0
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), empty)
            .await
            .expect("they go");
        let again = opened
            .ledger
            .execute(Command::Request("r1".into(), "a", 1))
            .await
            .expect("forgotten, so done again");
        assert_eq!(again.reply, 51);
        opened.close().await;
    }
}

/// Inbox keys that are left, once there are so few.
async fn keys_left(opened: &crate::bench::Open, count: usize) -> Vec<String> {
    loop {
        let rows = opened
            .ledger
            .reader()
            .fetch_all("SELECT key FROM ledger_inbox ORDER BY key", params![])
            .await
            .expect("a query");
        if rows.len() <= count {
            return rows.iter().map(|row| row.get(0).expect("a key")).collect();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn barrier_rows_outlive_other_inbox_rows() {
    const DAY: i64 = 24 * 3600 * 1000;
    for bench in [Some(Bench::sqlite()), Bench::postgres().await]
        .into_iter()
        .flatten()
    {
        let opened = bench.open().await;
        let now = chassis::Env::system().clock.now_millis();
        opened
            .ledger
            .transact(move |tx| {
                Box::pin(async move {
                    // More than one window of barrier rows stands before the request's row.
                    let mut rows =
                        vec![params!["barrier/0000/t/action", vec![1u8], now - 500 * DAY]];
                    for number in 1..=600 {
                        rows.push(params![
                            format!("barrier/{number:04}/t/action"),
                            vec![1u8],
                            now - 300 * DAY
                        ]);
                    }
                    rows.push(params!["request/m/old", vec![1u8], now - 8 * DAY]);
                    rows.push(params!["request/m/young", vec![1u8], now - DAY]);
                    tx.execute_rows(
                        "INSERT INTO ledger_inbox (key, value, commit_time) VALUES",
                        rows,
                        "",
                    )
                    .await
                })
            })
            .await
            .expect("written");
        opened.close().await;
        let opened = bench.open().await;
        let left = tokio::time::timeout(Duration::from_secs(20), keys_left(&opened, 601))
            .await
            .expect("the old ones go");
        assert_eq!(left.len(), 601);
        assert_eq!(left[0], "barrier/0001/t/action", "after 400 days");
        assert_eq!(left[600], "request/m/young", "after 7 days");
        opened.close().await;
    }
}

#[tokio::test]
async fn a_stream_with_a_gap_is_damaged_for_whoever_reads_it() {
    for bench in [Some(Bench::sqlite()), Bench::postgres().await] {
        let Some(bench) = bench else { continue };
        let open = bench.open().await;
        for name in ["a", "a", "a", "b"] {
            let added = open.ledger.execute(Command::Add(name, 1)).await;
            added.expect("added");
        }
        open.balance("account/a", 4).await;
        script(&open, "DELETE FROM ledger_events WHERE position = 2").await;
        open.close().await;

        let open = bench.open().await;
        let (a, b) = (account("a"), account("b"));
        let decided = open.ledger.execute(Command::Balance("a")).await;
        let Err(ledger::ExecuteError::Storage(refused)) = decided else {
            panic!("{decided:?}")
        };
        let loaded = open.ledger.load(&a).await.expect_err("damaged");
        for error in [&refused.0, &loaded] {
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("event 3 after 1"), "{error}");
        }
        assert_eq!(open.ledger.load(&b).await.expect("loads").1, 1);
        let other = open.ledger.execute(Command::Balance("b")).await;
        assert_eq!(other.expect("seen").reply, 1);
        open.close().await;
    }
}
