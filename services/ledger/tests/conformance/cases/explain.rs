//! At a million events every statement of the ledger uses an index.

use ledger::sql::Dynamic;
use ledger::{Value, params};

use crate::accounts::{Command, account};
use crate::bench::{Bench, Open, script};

const MILLION_SQLITE: &str = "
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000000)
INSERT INTO ledger_events (position, stream, version, type, data, commit_time)
SELECT n, printf('account/m%06d', (n - 1) / 4), (n - 1) % 4 + 1, 'test.Added', x'0000000000000001', n FROM n;
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
INSERT INTO ledger_inbox (key, value, commit_time) SELECT printf('request/%07d', n), x'00', 9000000000000 FROM n";

const MILLION_POSTGRES: &str = "
INSERT INTO ledger_events (position, stream, version, type, data, commit_time)
SELECT n, 'account/m' || lpad(((n - 1) / 4)::text, 6, '0'), (n - 1) % 4 + 1, 'test.Added', '\\x0000000000000001', n
FROM generate_series(1, 1000000) n;
INSERT INTO ledger_inbox (key, value, commit_time) SELECT 'request/' || n, '\\x00', 9000000000000 FROM generate_series(1, 100000) n;
UPDATE ledger_shards SET head = 1000000; UPDATE ledger_projections SET position = 1000000;
ANALYZE ledger_events; ANALYZE ledger_inbox";

/// The plan of a statement, as text.
async fn plan(open: &Open, sql: &str, params: Vec<Value>) -> String {
    let postgres = open.ledger.reader().dialect() == ledger::sql::Dialect::Postgres;
    let (explain, column) = if postgres {
        ("EXPLAIN", 0)
    } else {
        ("EXPLAIN QUERY PLAN", 3)
    };
    let rows = open
        .ledger
        .reader()
        .fetch_all(Dynamic(format!("{explain} {sql}")), params)
        .await
        .expect("explained");
    rows.iter()
        .map(|row| row.get::<String>(column).expect("a line"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_million_events_are_found_by_index_in_sqlite() {
    let bench = Bench::sqlite();
    let open = bench.open().await;
    script(&open, MILLION_SQLITE).await;
    script(&open, "UPDATE ledger_projections SET position = 1000000").await;
    open.close().await;
    let open = bench.open().await;
    let marks = |count| vec!["?"; count].join(", ");
    let load = "WITH want (stream, after) AS (VALUES (?, ?), (?, ?)) SELECT e.stream, e.version, e.type, e.data FROM want \
        CROSS JOIN ledger_events e ON e.stream = want.stream AND e.version > want.after ORDER BY e.stream, e.version";
    let statements = [
        ("SELECT * FROM ledger_events WHERE position > $1 ORDER BY position LIMIT $2".to_owned(), "INTEGER PRIMARY KEY"),
        (load.to_owned(), "ledger_events_stream"),
        ("SELECT COALESCE(MAX(version), 0) FROM ledger_events WHERE stream = $1".to_owned(), "ledger_events_stream"),
        ("SELECT COALESCE(MAX(position), 0) FROM ledger_events".to_owned(), "SEARCH"),
        ("SELECT 1 FROM ledger_events WHERE position = $1 AND batch = $2".to_owned(), "INTEGER PRIMARY KEY"),
        (format!("SELECT key, value FROM ledger_inbox WHERE key IN ({})", marks(4)), "ledger_inbox_key"),
        (
            "SELECT stream FROM ledger_events WHERE version = 1 AND stream > $1 AND stream >= $2 AND stream < $3 ORDER BY stream LIMIT $4".to_owned(),
            "ledger_events_stream",
        ),
        (
            "DELETE FROM ledger_inbox WHERE commit_time < $1 AND id <= (SELECT MAX(id) FROM (SELECT id FROM ledger_inbox ORDER BY id LIMIT 500))".to_owned(),
            "INTEGER PRIMARY KEY",
        ),
    ];
    for (sql, index) in statements {
        let plan = plan(&open, &sql, params![]).await;
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("SCAN ledger_events\n"), "{sql}\n{plan}");
        assert!(
            !plan.contains("USE TEMP B-TREE") || sql == load,
            "{sql}\n{plan}"
        );
    }
    million(&open).await;
    open.close().await;
}

#[tokio::test]
async fn a_million_events_are_found_by_index_in_postgres() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let open = bench.open().await;
    script(&open, MILLION_POSTGRES).await;
    open.close().await;
    let open = bench.open().await;
    let statements = [
        (
            "SELECT * FROM ledger_events WHERE shard = 0 AND position > 500000 ORDER BY position LIMIT 512",
            "ledger_events_pkey",
        ),
        (
            "SELECT e.stream, e.version, e.type, e.data FROM unnest(ARRAY['account/m000007', 'account/m000009'], ARRAY[0, 0]::bigint[]) AS x (stream, after) \
             CROSS JOIN LATERAL (SELECT * FROM ledger_events e WHERE e.stream = x.stream AND e.version > x.after ORDER BY e.version) e",
            "ledger_events_stream",
        ),
        (
            "SELECT max(version) FROM ledger_events WHERE stream = 'account/m000007'",
            "ledger_events_stream",
        ),
        (
            "SELECT key, value FROM ledger_inbox WHERE key = ANY(ARRAY['request/7', 'request/8'])",
            "ledger_inbox_key_key",
        ),
        (
            "SELECT stream FROM ledger_events WHERE version = 1 AND stream > '' AND stream >= 'account/' AND stream < 'account0' ORDER BY stream LIMIT 10",
            "ledger_events_stream",
        ),
        (
            "DELETE FROM ledger_inbox WHERE id IN (SELECT id FROM ledger_inbox ORDER BY id LIMIT 1000) AND commit_time < 5",
            "ledger_inbox_pkey",
        ),
    ];
    for (sql, index) in statements {
        let plan = plan(&open, sql, params![]).await;
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("Seq Scan on ledger_events"), "{sql}\n{plan}");
    }
    million(&open).await;
    let read = open.ledger.transact(|tx| Box::pin(delete_two(tx)));
    let read = read.await.expect("deleted");
    assert!(read < 100, "{read} events were read to delete eight");
    open.close().await;
}

/// Everything still works, from where it was.
async fn million(open: &Open) {
    assert_eq!(open.ledger.head(), 1_000_000);
    let done = open
        .ledger
        .execute(Command::AddTo(account("m000007"), 1))
        .await
        .expect("added");
    assert_eq!((done.reply, done.position), (5, 1_000_001));
    assert_eq!(open.balance("account/m000007", 1_000_001).await, Some(1));
    assert_eq!(
        open.ledger.read_log(999_999, 10).await.expect("read").len(),
        2
    );
}

/// Deletes two streams, and says how many events the transaction read.
async fn delete_two(tx: &mut ledger::sql::Tx) -> Result<i64, ledger::Error> {
    let streams = [account("m000001"), account("m000002")];
    assert_eq!(tx.delete_streams(&streams).await?, None);
    let read = "SELECT CAST(seq_tup_read + idx_tup_fetch AS BIGINT) FROM pg_stat_xact_user_tables WHERE relname = 'ledger_events'";
    let row = tx.fetch_optional(read, params![]).await?;
    row.expect("a row").get(0)
}
