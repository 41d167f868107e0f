//! Commits that fail, answers that are lost, full disks, crashes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use ledger::{Error, ExecuteError, params};
use sqlx::{Connection as _, PgConnection};

use crate::accounts::{Command, account};
use crate::bench::{Bench, Open};

pub(crate) async fn a_failed_commit_is_answered_and_forgotten(bench: Bench) {
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    bench.break_commits(&open).await;
    let (add, chained) = tokio::join!(
        open.ledger.execute(Command::Add("a", 1)),
        open.ledger.execute(Command::Balance("a"))
    );
    assert!(matches!(add, Err(ExecuteError::Storage(_))), "{add:?}");
    // Decided on the state that never was, or after it: never answered with 6.
    assert!(!chained.is_ok_and(|seen| seen.reply != 5));
    bench.mend_commits(&open).await;
    assert_eq!(
        open.ledger
            .execute(Command::Balance("a"))
            .await
            .expect("seen")
            .reply,
        5
    );
    let next = open
        .ledger
        .execute(Command::Add("a", 2))
        .await
        .expect("added");
    assert_eq!((next.reply, next.position), (7, 2));
    assert_eq!(
        open.seen.lock().expect("seen").len(),
        2,
        "the observer saw nothing of what failed"
    );
    open.close().await;
}

pub(crate) async fn a_full_disk_is_said_and_survived(bench: Bench) {
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    bench.fill_disk(&open).await;
    let mut refused = None;
    // SQLite first fills the pages it has.
    for number in 0..5000 {
        let done = open
            .ledger
            .execute(Command::AddTo(account(&format!("much-{number:0200}")), 1))
            .await;
        if let Err(error) = done {
            refused = Some(error);
            break;
        }
    }
    match refused {
        Some(ExecuteError::Storage(error)) => {
            assert!(matches!(error.0, Error::Full { .. }), "{error}");
            assert!(error.to_string().contains("make room"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let head = open.ledger.head();
    bench.make_room(&open).await;
    let done = open
        .ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("it goes on");
    assert_eq!((done.reply, done.position), (6, head + 1));
    open.close().await;
    let open = bench.open().await;
    assert_eq!(open.ledger.head(), head + 1);
    open.close().await;
}

pub(crate) async fn a_crash_loses_nothing_that_was_answered(bench: Bench) {
    let open = bench.open().await;
    let adding = (0..100).map(|number| {
        open.ledger
            .execute(Command::AddTo(account(&format!("n{}", number % 9)), 1))
    });
    assert!(join_all(adding).await.iter().all(Result::is_ok));
    open.balance("account/n0", 100).await;
    let (_folder, open) = bench.crash(open).await;
    assert_eq!(open.ledger.head(), 100);
    assert_eq!(
        open.ledger
            .execute(Command::AddTo(account("n0"), 1))
            .await
            .expect("added")
            .reply,
        13
    );
    assert_eq!(open.balance("account/n0", 101).await, Some(13));
    open.close().await;
}

pub(crate) async fn a_subscriber_sees_only_what_survives_a_crash(bench: Bench) {
    let open = bench.open().await;
    let mut subscription = open.ledger.subscribe(0).expect("from the start");
    let ledger = open.ledger.clone();
    let writing = tokio::spawn(async move {
        for number in 0.. {
            if ledger
                .execute(Command::AddTo(account(&format!("n{number}")), 1))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 50 {
        seen.extend(subscription.next(5).await.expect("events"));
    }
    let (_folder, open) = bench.crash(open).await;
    writing.await.expect("ends with an error");
    let found = open.ledger.read_log(0, seen.len()).await.expect("readable");
    assert_eq!(found, seen);
    open.close().await;
}

/// Where the answer to a commit can be lost.
async fn losing() -> Vec<Bench> {
    [Some(Bench::simulated()), Bench::postgres().await]
        .into_iter()
        .flatten()
        .collect()
}

async fn sum(open: &Open) -> i64 {
    open.ledger
        .execute(Command::Balance("a"))
        .await
        .expect("seen")
        .reply
}

#[tokio::test]
async fn a_commit_that_took_but_was_not_answered_is_found_and_answered() {
    for bench in losing().await {
        let open = bench.open().await;
        open.ledger
            .execute(Command::Add("a", 5))
            .await
            .expect("added");
        bench.lose_next_answer();
        let done = open
            .ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("looked up and found");
        assert_eq!((done.reply, done.position), (6, 2));
        assert_eq!(
            open.seen.lock().expect("seen").len(),
            2,
            "the observer saw it"
        );
        let behind = open.behind.load(Ordering::Relaxed);
        assert_eq!(behind, 1, "and was told that it is coming, once");
        assert_eq!(sum(&open).await, 6);
        assert_eq!(
            open.ledger
                .execute(Command::Add("a", 1))
                .await
                .expect("goes on")
                .position,
            3
        );
        open.close().await;
    }
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_answered_with_an_error_and_is_not_there() {
    for bench in losing().await {
        let open = bench.open().await;
        open.ledger
            .execute(Command::Add("a", 5))
            .await
            .expect("added");
        bench.lose_next_question();
        let done = open.ledger.execute(Command::Add("a", 1)).await;
        assert!(matches!(done, Err(ExecuteError::Storage(_))), "{done:?}");
        assert_eq!(sum(&open).await, 5);
        assert_eq!(
            open.ledger
                .execute(Command::Add("a", 1))
                .await
                .expect("goes on")
                .position,
            2
        );
        open.close().await;
    }
}

#[tokio::test]
async fn the_server_is_told_to_end_what_nobody_waits_for() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let open = bench.open().await;
    let settings = "SELECT current_setting('statement_timeout') || ' ' || current_setting('tcp_user_timeout') || ' ' || \
        current_setting('tcp_keepalives_idle') || ' ' || current_setting('idle_in_transaction_session_timeout')";
    let read = open.ledger.reader().fetch_all(settings, params![]).await;
    let written = open
        .ledger
        .transact(|tx| Box::pin(tx.fetch_all(settings, params![])))
        .await;
    for rows in [read, written] {
        let found: String = rows.expect("a query")[0].get(0).expect("a text");
        assert_eq!(found, "9s 30000 10 2s");
    }
    open.close().await;
}

/// Waits for what waits for a database that does not answer: time passes faster. Fails a test in which that does not help.
async fn patiently<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    for _ in 0..600 {
        tokio::select! {
            biased;
            output = &mut future => return output,
            // For what does answer.
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
    }
    panic!("it still waits for the database");
}

#[tokio::test]
async fn a_database_that_vanishes_without_a_word_is_given_up_and_its_commits_are_looked_up() {
    for written in [true, false] {
        let Some(bench) = Bench::postgres().await else {
            return;
        };
        let Bench::Postgres { proxy, .. } = &bench else {
            unreachable!("on PostgreSQL alone")
        };
        let open = bench.open().await;
        let first = open.ledger.execute(Command::Add("a", 5)).await;
        assert_eq!(open.balance("account/a", 1).await, Some(5));
        match written {
            true => proxy.swallow_from_next_answer(),
            false => proxy.swallow_from_next_question(),
        }
        let adding = async {
            let mut adding = std::pin::pin!(open.ledger.execute(Command::Add("a", 1)));
            tokio::select! {
                early = &mut adding => panic!("{early:?} before the database vanished"),
                () = proxy.swallows() => {}
            }
            // While the path is away nothing is known, however long that is.
            tokio::select! {
                early = &mut adding => panic!("{early:?} without having looked"),
                () = tokio::time::sleep(Duration::from_secs(30)) => {}
            }
            proxy.mend();
            adding.await
        };
        let done = patiently(adding).await;
        let known = match written {
            true => 6,
            false => 5,
        };
        match done {
            Ok(done) => assert_eq!((done.reply, done.position, written), (6, 2, true)),
            Err(ExecuteError::Storage(error)) => {
                assert!(!written, "{error}");
                assert!(error.to_string().contains("did not answer"), "{error}");
            }
            Err(other) => panic!("{other:?}"),
        }
        // Everything goes on without a restart: the committer, the tables, whoever reads them.
        let next = patiently(open.ledger.execute(Command::Add("a", 10))).await;
        let next = next.expect("it goes on");
        assert_eq!(next.reply, known + 10);
        assert_eq!(
            next.position,
            first.as_ref().expect("added").position + 1 + u64::from(written)
        );
        let reading = async {
            let within = Duration::from_secs(100_000);
            let follows = open
                .ledger
                .wait_for_projection("balances", next.position, within);
            follows.await.expect("the table follows");
            open.balance("account/a", next.position).await
        };
        assert_eq!(patiently(reading).await, Some(known + 10));
        patiently(open.close()).await;
    }
}

#[tokio::test]
async fn a_statement_that_still_runs_when_it_is_given_up_is_waited_for_by_the_look_up() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let Bench::Postgres { proxy, direct } = &bench else {
        unreachable!("on PostgreSQL alone")
    };
    let connect = async || {
        let connection = PgConnection::connect(&direct.database_url).await;
        connection.expect("PostgreSQL answers")
    };
    let (mut hand, mut watch) = (connect().await, connect().await);
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    // The look-up, too, has to wait for whoever has this row.
    let mut held = hand.begin().await.expect("a transaction");
    sqlx::query("SELECT 1 FROM test.ledger_shards FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("the row");
    let waiting = async |watch: &mut PgConnection, statement: &str| {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%' AND pid <> pg_backend_pid()";
        loop {
            let count = sqlx::query_scalar::<_, i64>(sql).bind(statement);
            if count.fetch_one(&mut *watch).await.expect("a count") > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let adding = open.ledger.execute(Command::Add("a", 1));
    let going_on = async {
        waiting(&mut watch, "ledger_append").await;
        proxy.swallow();
        // Until the append is given up, which the server does not see.
        tokio::time::sleep(Duration::from_secs(11)).await;
        waiting(&mut watch, "ledger_append").await;
        proxy.mend();
        waiting(&mut watch, "FROM ledger_shards").await;
        held.commit().await.expect("released");
    };
    let (done, ()) = patiently(async { tokio::join!(adding, going_on) }).await;
    // It took after all; or the server has ended it before, on a machine that is very busy.
    let left = match done {
        Ok(done) => (done.reply, done.position),
        Err(ExecuteError::Storage(_)) => (5, 1),
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!((patiently(sum(&open)).await, open.ledger.head()), left);
    patiently(open.close()).await;
}

#[tokio::test]
async fn the_observer_sees_a_found_commit_even_if_its_stream_cannot_be_read_at_once() {
    let disk = ledger::SimulatedDisk::new();
    let open = Bench::Simulated(disk.clone()).open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    disk.fail_after_commit();
    disk.fail_loads(3);
    let done = open
        .ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("looked up and found");
    assert_eq!((done.reply, done.position), (6, 2));
    let seen = open.seen.lock().expect("seen").clone();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].4.balance, 6, "with the state after it");
    assert_eq!(sum(&open).await, 6);
    open.close().await;
}

#[tokio::test]
async fn what_has_ended_leaves_memory_even_if_it_was_only_looked_at() {
    let bench = Bench::sqlite();
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    open.ledger
        .execute(Command::Close(account("a")))
        .await
        .expect("closed");
    open.ledger
        .execute(Command::Add("b", 1))
        .await
        .expect("added");
    // Read again, to be looked at.
    assert_eq!(sum(&open).await, 5);
    crate::bench::script(
        &open,
        "DELETE FROM ledger_events WHERE stream = 'account/a'",
    )
    .await;
    assert_eq!(sum(&open).await, 0, "it is not in memory either");
    let again = open.ledger.execute(Command::Add("a", 2)).await;
    assert_eq!(again.expect("a new one").reply, 2);
    open.close().await;
}
