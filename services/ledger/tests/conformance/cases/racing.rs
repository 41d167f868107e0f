//! Several processes writing to one database.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use ledger::{CommitterOptions, ExecuteError};

use crate::accounts::{Command, Refusal};
use crate::bench::Bench;

pub(crate) async fn a_rejection_is_decided_on_what_another_writer_has_written(bench: Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    one.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    // The first process has a = 5 in memory.
    two.ledger
        .execute(Command::Add("a", -5))
        .await
        .expect("taken");
    assert_eq!(
        one.ledger
            .execute(Command::Balance("a"))
            .await
            .expect("seen")
            .reply,
        0
    );
    two.ledger
        .execute(Command::Add("a", 3))
        .await
        .expect("added");
    let refused = one.ledger.execute(Command::Add("a", -5)).await;
    assert_eq!(refused, Err(ExecuteError::Rejected(Refusal::TooLittle(3))));
    one.close().await;
    two.close().await;
}

pub(crate) async fn only_the_losers_of_a_race_are_decided_again(bench: Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    for name in ["a", "b", "c"] {
        one.ledger
            .execute(Command::Add(name, 5))
            .await
            .expect("added");
    }
    two.ledger
        .execute(Command::Add("a", 10))
        .await
        .expect("added");
    one.seen.lock().expect("seen").clear();
    // One batch: the first command is stale, the third is chained on it, the second and fourth are not.
    let (stale, fine, chained, last) = tokio::join!(
        one.ledger.execute(Command::Move("a", "b", 1)),
        one.ledger.execute(Command::Add("c", 1)),
        one.ledger.execute(Command::Add("b", 1)),
        one.ledger.execute(Command::Balance("c")),
    );
    let (stale, fine, chained) = (
        stale.expect("moved"),
        fine.expect("added"),
        chained.expect("added"),
    );
    assert_eq!(
        (
            stale.reply,
            fine.reply,
            chained.reply,
            last.expect("seen").reply
        ),
        (14, 6, 7, 6)
    );
    assert!(fine.position < stale.position && stale.position < chained.position);
    let states: Vec<_> = one
        .seen
        .lock()
        .expect("seen")
        .iter()
        .map(|(.., state)| state.balance)
        .collect();
    assert_eq!(states, [6, 14, 7, 7], "states after each batch");
    one.close().await;
    two.close().await;
}

pub(crate) async fn writers_that_race_lose_no_update_and_positions_stay_dense(bench: Bench) {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let options = || CommitterOptions {
        poll: std::time::Duration::from_millis(5),
        ..CommitterOptions::default()
    };
    let writers = [
        bench.open_with(options(), 1).await,
        bench.open_with(options(), 1).await,
        bench.open_with(options(), 1).await,
    ];
    writers[0]
        .ledger
        .execute(Command::Add("a", 1000))
        .await
        .expect("added");
    let mut subscription = writers[1].ledger.subscribe(0).expect("from the start");
    let calls = (0..60usize).flat_map(|number| {
        let ledger = writers[number % 3].ledger.clone();
        let (from, to) = (NAMES[number % 3], NAMES[(number / 3 + number + 1) % 3]);
        let moving = if from == to {
            Command::Add(from, 0)
        } else {
            Command::Move(from, to, 1)
        };
        // The same request reaches two processes.
        let request = Command::Request(format!("r{}", number / 2), "c", 10);
        [(ledger.clone(), moving), (ledger, request)]
    });
    let results =
        join_all(calls.map(|(ledger, command)| async move { ledger.execute(command).await })).await;
    for result in results {
        assert!(
            matches!(
                result,
                Ok(_) | Err(ExecuteError::Rejected(Refusal::TooLittle(_)))
            ),
            "{result:?}"
        );
    }
    let mut total = 0;
    for name in NAMES {
        let balances = join_all(
            writers
                .iter()
                .map(|writer| writer.ledger.execute(Command::Balance(name))),
        )
        .await;
        let balances: Vec<i64> = balances
            .into_iter()
            .map(|seen| seen.expect("seen").reply)
            .collect();
        assert!(
            balances.windows(2).all(|pair| pair[0] == pair[1]),
            "{balances:?}"
        );
        total += balances[0];
    }
    assert_eq!(total, 1000 + 30 * 10, "nothing lost, each request once");

    let head = join_all(writers.iter().map(|writer| async { writer.ledger.head() }))
        .await
        .into_iter()
        .max()
        .expect("three");
    let (mut position, mut versions) = (0, BTreeMap::<String, u64>::new());
    while position < head {
        for event in subscription.next(20).await.expect("events") {
            position += 1;
            assert_eq!(
                event.position, position,
                "dense and in commit order, whoever wrote"
            );
            let version = versions.entry(event.stream.to_string()).or_default();
            *version += 1;
            assert_eq!(event.version, *version);
        }
    }
    // Three processes ran the same projection: each event was applied once.
    let mut projected = 0;
    for name in NAMES {
        projected += writers[2]
            .balance(&format!("account/{name}"), head)
            .await
            .unwrap_or_default();
    }
    assert_eq!(projected, total);
    for writer in writers {
        writer.close().await;
    }
}

#[tokio::test]
async fn a_writer_that_was_forgotten_registers_again() {
    let Some(bench) = Bench::postgres().await else {
        return;
    };
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    crate::bench::script(&open, "DELETE FROM ledger_writers").await;
    let refused = open.ledger.execute(Command::Add("a", 1)).await;
    assert!(
        matches!(refused, Err(ExecuteError::Storage(_))),
        "{refused:?}"
    );
    assert_eq!(
        open.ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("added")
            .reply,
        6
    );
    open.close().await;
}
