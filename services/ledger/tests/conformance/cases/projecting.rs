//! Projections and SQL.

use std::time::Duration;

use ledger::{Error, params};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

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

pub(crate) async fn a_text_that_postgresql_does_not_know_stops_nothing(bench: Bench) {
    let open = bench.open().await;
    let work = open.ledger.transact(|tx| {
        Box::pin(async move {
            tx.script("CREATE TABLE words (word TEXT PRIMARY KEY)")
                .await?;
            tx.execute("INSERT INTO words (word) VALUES ($1)", params!["a\0b"])
                .await?;
            tx.execute_rows(
                "INSERT INTO words (word) VALUES",
                vec![params!["c\0d"], params!["e"]],
                "",
            )
            .await
        })
    });
    work.await.expect("written");
    for word in ["a\0b", "c\0d", "e"] {
        let sql = "SELECT word FROM words WHERE word = $1";
        let found = open.ledger.reader().fetch_all(sql, params![word]).await;
        assert_eq!(found.expect("a query").len(), 1, "{word:?}");
    }
    open.close().await;
}

/// SQL that was put together at run time.
fn sql_safe(sql: &str) -> ledger::sql::Dynamic<String> {
    ledger::sql::Dynamic(sql.to_owned())
}

/// Remembers what it has applied, as projections do that do not read their own rows again.
#[derive(Default)]
struct Remembering {
    sums: std::collections::BTreeMap<String, i64>,
}

impl ledger::Projection for Remembering {
    fn name(&self) -> &'static str {
        "remembering"
    }

    fn version(&self) -> u32 {
        1
    }

    fn schema(&self, _dialect: ledger::sql::Dialect) -> &'static [&'static str] {
        &["CREATE TABLE remembered (stream TEXT PRIMARY KEY, events BIGINT NOT NULL)"]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["remembered"]
    }

    fn apply<'a>(
        &'a mut self,
        tx: &'a mut ledger::sql::Tx,
        events: &'a [ledger::Recorded],
    ) -> ledger::BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            for event in events {
                let sql = "SELECT events FROM remembered WHERE stream = $1";
                let known = match self.sums.get(event.stream.as_str()) {
                    Some(known) => *known,
                    None => match tx.fetch_optional(sql, params![&event.stream]).await? {
                        Some(row) => row.get(0)?,
                        None => 0,
                    },
                };
                self.sums.insert(event.stream.to_string(), known + 1);
                let sql = "INSERT INTO remembered (stream, events) VALUES ($1, $2) ON CONFLICT (stream) DO UPDATE SET events = excluded.events";
                tx.execute(sql, params![&event.stream, known + 1]).await?;
            }
            Ok(())
        })
    }

    fn rolled_back(&mut self) {
        self.sums.clear();
    }
}

#[tokio::test]
async fn a_projection_is_told_that_its_transaction_was_rolled_back() {
    let bench = Bench::sqlite();
    let tasks = chassis::Tasks::new();
    let ledger = ledger::Ledger::open(
        bench.config(),
        crate::accounts::Accounts::default(),
        (),
        vec![Box::new(Remembering::default())],
        &chassis::Env::system(),
        &tasks,
        Default::default(),
    )
    .await
    .expect("opens");
    let script = |sql: &'static str| ledger.transact(move |tx| Box::pin(tx.script(sql)));
    // It is applied, and then its position cannot be stored.
    script("CREATE TRIGGER broken BEFORE UPDATE ON ledger_projections BEGIN SELECT RAISE(ABORT, 'broken'); END")
        .await
        .expect("broken");
    let done = ledger.execute(Command::Add("a", 1)).await.expect("added");
    let within = Duration::from_millis(100);
    let waited = ledger
        .wait_for_projection("remembering", done.position, within)
        .await;
    assert!(matches!(waited, Err(Error::Timeout(_))), "{waited:?}");
    script("DROP TRIGGER broken").await.expect("mended");
    ledger
        .wait_for_projection("remembering", done.position, Duration::from_secs(20))
        .await
        .expect("it goes on");
    let row = ledger
        .reader()
        .fetch_optional("SELECT events FROM remembered", params![])
        .await
        .expect("a query")
        .expect("a row");
    assert_eq!(row.get::<i64>(0).expect("a number"), 1, "applied once");
    tasks
        .shutdown(Duration::from_secs(10))
        .await
        .expect("all tasks end");
    ledger.close().await;
}

#[tokio::test]
async fn what_another_replica_has_projected_counts_and_its_work_is_not_waited_for() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let open = bench.open().await;
    let Bench::Postgres { direct, .. } = &bench else {
        unreachable!("on PostgreSQL alone")
    };
    let mut other = PgConnection::connect(&direct.database_url)
        .await
        .expect("PostgreSQL answers");
    let run = async |other: &mut PgConnection, sql: &str| {
        let ran = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(other);
        ran.await.expect("the script runs");
    };
    run(
        &mut other,
        "SET search_path TO test; BEGIN; SELECT position FROM ledger_projections FOR UPDATE",
    )
    .await;
    let add = || open.ledger.execute(Command::Add("a", 5));
    let first = add().await.expect("added").position;
    let within = |time| {
        open.ledger
            .wait_for_projection("balances", first, Duration::from_millis(time))
    };
    within(200).await.expect_err("the other one is at it");
    run(
        &mut other,
        &format!("UPDATE ledger_projections SET position = {first}; COMMIT"),
    )
    .await;
    within(20_000).await.expect("that counts");
    assert_eq!(open.balance("account/a", first).await, None);
    // Nobody else goes on: this one does, from there.
    let second = add().await.expect("added").position;
    assert_eq!(open.balance("account/a", second).await, Some(5));
    open.close().await;
}
