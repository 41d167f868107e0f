//! Projections and SQL.

use std::time::Duration;

use ledger::{Error, params};

use crate::accounts::{Command, account};
use crate::bench::Bench;

pub(crate) async fn a_projection_follows_and_is_rebuilt(bench: Bench) {
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    let done = open
        .ledger
        .execute(Command::Add("a", 7))
        .await
        .expect("added");
    assert_eq!(open.balance("account/a", done.position).await, Some(12));
    open.ledger
        .transact(|tx| Box::pin(tx.execute("UPDATE balances SET balance = 0", params![])))
        .await
        .expect("spoiled");
    open.ledger.rebuild("balances").await.expect("rebuilt");
    assert_eq!(open.balance("account/a", done.position).await, Some(12));
    open.close().await;

    let open = bench.open().await;
    let done = open
        .ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    assert_eq!(
        open.balance("account/a", done.position).await,
        Some(13),
        "each event once"
    );
    open.close().await;
}

pub(crate) async fn a_new_version_rebuilds_the_tables(bench: Bench) {
    let open = bench.open().await;
    let done = open
        .ledger
        .execute(Command::Add("a", 12))
        .await
        .expect("added");
    assert_eq!(open.balance("account/a", done.position).await, Some(12));
    open.close().await;
    let open = bench.open_with(Default::default(), 2).await;
    assert_eq!(open.balance("account/a", done.position).await, Some(24));
    open.close().await;
}

pub(crate) async fn a_rebuild_while_commands_run_ends_right(bench: Bench) {
    let open = bench.open().await;
    let ledger = open.ledger.clone();
    let writing = tokio::spawn(async move {
        let mut last = 0;
        for number in 0..300 {
            last = ledger
                .execute(Command::AddTo(account(&format!("n{}", number % 10)), 1))
                .await
                .expect("added")
                .position;
        }
        last
    });
    for _ in 0..5 {
        open.ledger.rebuild("balances").await.expect("rebuilt");
    }
    let last = writing.await.expect("written");
    assert_eq!(open.balance("account/n0", last).await, Some(30));
    open.close().await;
}

pub(crate) async fn waiting_for_a_projection_is_bounded(bench: Bench) {
    let open = bench.open().await;
    let wait = open
        .ledger
        .wait_for_projection("balances", 1, Duration::from_millis(20))
        .await;
    assert!(matches!(wait, Err(Error::Timeout(_))), "{wait:?}");
    let wait = open
        .ledger
        .wait_for_projection("nothing", 1, Duration::from_millis(20))
        .await;
    assert!(matches!(wait, Err(Error::UnknownProjection(_))), "{wait:?}");
    assert!(matches!(
        open.ledger.rebuild("nothing").await,
        Err(Error::UnknownProjection(_))
    ));
    assert_eq!(
        open.ledger.projection_position("balances").expect("known"),
        0
    );
    open.close().await;
}

pub(crate) async fn the_reader_cannot_write(bench: Bench) {
    let open = bench.open().await;
    let refused = open
        .ledger
        .reader()
        .fetch_all("DELETE FROM balances", params![])
        .await;
    assert!(refused.is_err());
    open.close().await;
}

pub(crate) async fn a_transaction_that_is_dropped_leaves_nothing(bench: Bench) {
    let open = bench.open().await;
    let failed = open
        .ledger
        .transact(|tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO balances (account, balance) VALUES ($1, $2)",
                    params!["x", 1],
                )
                .await?;
                Err::<(), _>(Error::Contract("changed my mind".into()))
            })
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(open.balance("x", 0).await, None);
    assert!(open.ledger.execute(Command::Add("a", 1)).await.is_ok());
    open.close().await;
}

pub(crate) async fn values_survive_both_dialects(bench: Bench) {
    let open = bench.open().await;
    let work = open.ledger.transact(|tx| {
        Box::pin(async move {
            tx.script("CREATE TABLE kinds (id INTEGER PRIMARY KEY, word TEXT, data BLOB, share REAL, yes INTEGER)").await?;
            let row = |id: i64| {
                params![id, format!("w{id}"), vec![id as u8], Some(0.5), id % 2 == 0]
            };
            let head = "INSERT INTO kinds (id, word, data, share, yes) VALUES";
            let written = tx.execute_rows(head, (0..100).map(row).collect(), "ON CONFLICT (id) DO NOTHING").await?;
            assert_eq!(written, 100);
            let nothing = params![100, None::<String>, None::<Vec<u8>>, None::<f64>, None::<bool>];
            tx.execute("INSERT INTO kinds (id, word, data, share, yes) VALUES ($1, $2, $3, $4, $5)", nothing).await?;
            tx.fetch_all("SELECT * FROM kinds WHERE id >= $1 ORDER BY id LIMIT $2", params![99, 10]).await
        })
    });
    let rows = work.await.expect("written");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].get::<i64>("id").expect("id"), 99);
    assert_eq!(
        rows[0]
            .get::<Option<String>>("word")
            .expect("word")
            .as_deref(),
        Some("w99")
    );
    assert_eq!(rows[0].get::<Vec<u8>>("data").expect("data"), [99]);
    assert_eq!(rows[0].get::<f64>("share").expect("share"), 0.5);
    assert!(!rows[0].get::<bool>("yes").expect("yes"));
    assert_eq!(rows[1].get::<Option<String>>(1).expect("word"), None);
    assert_eq!(rows[1].get::<Option<Vec<u8>>>(2).expect("data"), None);
    assert_eq!(rows[1].get::<Option<bool>>(4).expect("yes"), None);
    assert!(rows[1].get::<i64>("word").is_err());
    let sum = "SELECT CAST(SUM(id) AS BIGINT) AS sum, COUNT(*) AS count FROM kinds";
    let row = open
        .ledger
        .reader()
        .fetch_optional(sql_safe(sum), params![])
        .await
        .expect("a query")
        .expect("a row");
    assert_eq!(
        (
            row.get::<u64>("sum").expect("sum"),
            row.get::<u32>("count").expect("count")
        ),
        (5050, 101)
    );
    open.close().await;
}

/// SQL that was put together at run time.
fn sql_safe(sql: &str) -> ledger::sql::Dynamic<String> {
    ledger::sql::Dynamic(sql.to_owned())
}
