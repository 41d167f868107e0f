//! Two versions of a program on one database: what an older one does with what a newer one has written.

use std::time::Duration;

use ledger::{CommitterOptions, Error, ExecuteError, params};

use crate::accounts::Command;
use crate::bench::{Bench, open, script};

/// The benches whose tables outlive a process.
async fn on_disk() -> Vec<Bench> {
    let benches = [Some(Bench::sqlite()), Bench::postgres().await];
    benches.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_schema_that_only_grew_is_used_by_older_programs() {
    for bench in on_disk().await {
        let running = bench.open().await;
        running
            .ledger
            .execute(Command::Add("a", 5))
            .await
            .expect("added");
        // As the next version does: it adds, and leaves alone from which version on the database can be used.
        let current = if matches!(bench, Bench::Sqlite(_)) {
            1
        } else {
            2
        };
        script(&running, "ALTER TABLE ledger_events ADD COLUMN note TEXT").await;
        script(
            &running,
            "CREATE TABLE ledger_notes (id INTEGER PRIMARY KEY, note TEXT)",
        )
        .await;
        set(&running, "schema_version", current + 1).await;
        running
            .ledger
            .execute(Command::Add("a", 2))
            .await
            .expect("it goes on");
        running.close().await;
        // And starts again, as after a crash in the middle of a rollout.
        let again = bench.open().await;
        let done = again
            .ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("added");
        assert_eq!(again.balance("account/a", done.position).await, Some(8));
        // A release later something is taken away.
        set(&again, "usable_from", current + 1).await;
        again.close().await;
        let error = open(bench.config(), CommitterOptions::default(), 1)
            .await
            .err()
            .expect("it is refused");
        let versions = format!(
            "has schema version {}, and this program knows versions up to {current}",
            current + 1
        );
        assert!(error.to_string().contains(&versions), "{error}");
        assert!(
            error.to_string().contains("start the newer program"),
            "{error}"
        );
    }
}

async fn set(open: &crate::bench::Open, key: &'static str, value: i64) {
    open.ledger
        .transact(move |tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO ledger_meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    params![key, value.to_string()],
                )
                .await?;
                Ok(())
            })
        })
        .await
        .expect("set");
}

#[tokio::test]
async fn an_event_of_a_newer_program_holds_up_its_stream_alone() {
    for bench in on_disk().await {
        let newer = bench.open().await;
        for name in ["a", "b"] {
            newer
                .ledger
                .execute(Command::Add(name, 5))
                .await
                .expect("added");
        }
        newer.close().await;
        let newer = bench.open().await;
        let write = match bench {
            Bench::Sqlite(_) => {
                "INSERT INTO ledger_events (position, stream, version, type, data, commit_time) VALUES (3, 'account/b', 2, 'test.Later', x'00', 0)"
            }
            _ => {
                "INSERT INTO ledger_events (position, stream, version, type, data, commit_time) VALUES (3, 'account/b', 2, 'test.Later', '\\x00', 0);
                 UPDATE ledger_shards SET head = 3"
            }
        };
        script(&newer, write).await;
        newer.close().await;

        // The older program starts, goes on with every other stream, and says why not with this one.
        let older = bench.open().await;
        let done = older
            .ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("another stream");
        assert_eq!((done.reply, done.position), (6, 4));
        let refused = older.ledger.execute(Command::Add("b", 1)).await;
        let Err(ExecuteError::Storage(error)) = refused else {
            panic!("{refused:?}");
        };
        assert!(
            error.to_string().contains("test.Later")
                && error.to_string().contains("written by a newer program"),
            "{error}"
        );
        // Its tables stand still before that event: nothing is passed over that the newer program would miss later.
        let wait = Duration::from_millis(300);
        let waited = older.ledger.wait_for_projection("balances", 3, wait).await;
        assert!(matches!(waited, Err(Error::Timeout(_))), "{waited:?}");
        assert_eq!(older.balance("account/b", 2).await, Some(5));
        older.close().await;

        // The newer one finds everything, in place and in order.
        let newer = bench.open_with(CommitterOptions::default(), 3).await;
        assert_eq!(newer.balance("account/a", 4).await, Some(12));
        let sql = "SELECT type FROM ledger_events ORDER BY position";
        let rows = newer.ledger.reader().fetch_all(sql, params![]).await;
        let rows = rows.expect("the log");
        let types: Vec<String> = rows.iter().map(|row| row.get(0).expect("a type")).collect();
        assert_eq!(
            types,
            ["test.Added", "test.Added", "test.Later", "test.Added"]
        );
        newer.close().await;
    }
}

#[tokio::test]
async fn of_replicas_the_newest_keeps_the_tables() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let add = |amount| Command::Add("a", amount);
    let old = bench.open().await;
    let done = old.ledger.execute(add(5)).await.expect("added");
    assert_eq!(old.balance("account/a", done.position).await, Some(5));
    // The next version counts double, and makes the tables again for that while the old one runs.
    let new = bench.open_with(CommitterOptions::default(), 2).await;
    assert_eq!(new.balance("account/a", done.position).await, Some(10));
    let done = old.ledger.execute(add(1)).await.expect("added");
    assert_eq!(old.balance("account/a", done.position).await, Some(12));
    // An old one that starts now does not take them back.
    let restarted = bench.open().await;
    let done = restarted.ledger.execute(add(1)).await.expect("added");
    assert_eq!(
        restarted.balance("account/a", done.position).await,
        Some(14)
    );
    assert_eq!(new.balance("account/a", done.position).await, Some(14));
    for each in [old, restarted, new] {
        each.close().await;
    }
}

#[tokio::test]
async fn tables_of_a_version_that_was_rolled_back_are_made_again() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let new = bench.open_with(CommitterOptions::default(), 2).await;
    let done = new
        .ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    assert_eq!(new.balance("account/a", done.position).await, Some(10));
    new.close().await;
    let options = CommitterOptions {
        newer_tables_abandoned: Duration::from_millis(200),
        ..CommitterOptions::default()
    };
    let old = bench.open_with(options, 1).await;
    assert_eq!(old.balance("account/a", done.position).await, Some(10));
    let done = old
        .ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    assert_eq!(old.balance("account/a", done.position).await, Some(6));
    old.close().await;
}
