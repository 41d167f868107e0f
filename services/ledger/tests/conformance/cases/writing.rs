//! Streams, versions, positions, states in memory.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use ledger::{CommitterOptions, Error, ExecuteError, params};

use crate::accounts::{Account, Command, Event, Refusal, account};
use crate::bench::{Bench, script};

pub(crate) async fn events_are_appended_and_read_back(bench: Bench) {
    let open = bench.open().await;
    let first = open
        .ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    let second = open
        .ledger
        .execute(Command::Add("a", 7))
        .await
        .expect("added");
    assert_eq!(
        (first.reply, first.position, second.reply, second.position),
        (5, 1, 12, 2)
    );
    let log_id = open.ledger.log_id();
    open.close().await;

    let open = bench.open().await;
    assert_eq!(open.ledger.log_id(), log_id);
    let events = open
        .ledger
        .read_stream(&account("a"), 0)
        .await
        .expect("readable");
    assert_eq!(events, [(1, Event::Added(5)), (2, Event::Added(7))]);
    let state = Account {
        balance: 12,
        events: 2,
        closed: false,
    };
    assert_eq!(
        open.ledger.load(&account("a")).await.expect("loads"),
        (state, 2)
    );
    let third = open
        .ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    assert_eq!((third.reply, third.position), (13, 3));
    open.close().await;
}

pub(crate) async fn a_rejection_appends_nothing(bench: Bench) {
    let open = bench.open().await;
    let refused = open.ledger.execute(Command::Add("a", -1)).await;
    assert_eq!(refused, Err(ExecuteError::Rejected(Refusal::TooLittle(0))));
    assert_eq!(open.ledger.head(), 0);
    assert_eq!(
        open.ledger
            .execute(Command::Balance("a"))
            .await
            .expect("seen")
            .position,
        0
    );
    open.close().await;
}

pub(crate) async fn two_streams_change_together_or_not_at_all(bench: Bench) {
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 10))
        .await
        .expect("added");
    open.ledger
        .execute(Command::Move("a", "b", 4))
        .await
        .expect("moved");
    let refused = open.ledger.execute(Command::Move("a", "b", 7)).await;
    assert_eq!(refused, Err(ExecuteError::Rejected(Refusal::TooLittle(6))));
    assert_eq!(
        open.ledger
            .execute(Command::Balance("b"))
            .await
            .expect("seen")
            .reply,
        4
    );
    open.close().await;
}

pub(crate) async fn many_callers_get_dense_positions_in_commit_order(bench: Bench) {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let open = bench.open().await;
    for name in NAMES {
        open.ledger
            .execute(Command::Add(name, 100))
            .await
            .expect("added");
    }
    let mut subscription = open.ledger.subscribe(0).expect("from the start");
    let callers = (0..40usize).map(|caller| {
        let ledger = open.ledger.clone();
        async move {
            let mut positions = Vec::new();
            for round in 0..10 {
                let (from, to) = (
                    NAMES[(caller + round) % 5],
                    NAMES[(caller + 2 * round + 1) % 5],
                );
                if from == to {
                    continue;
                }
                match ledger
                    .execute(Command::Move(from, to, 1 + (caller % 7) as i64))
                    .await
                {
                    Ok(done) => positions.push(done.position),
                    Err(ExecuteError::Rejected(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            positions
        }
    });
    let mut last_positions: Vec<u64> = join_all(callers).await.into_iter().flatten().collect();
    last_positions.sort_unstable();
    let head = open.ledger.head();
    assert_eq!(
        last_positions.len() as u64 * 2 + 5,
        head,
        "every move has two events"
    );

    let (mut position, mut versions, mut sum) = (0, BTreeMap::<String, u64>::new(), 0);
    while position < head {
        for event in subscription.next(7).await.expect("events") {
            position += 1;
            assert_eq!(event.position, position, "dense and in order");
            let version = versions.entry(event.stream.to_string()).or_default();
            *version += 1;
            assert_eq!(event.version, *version, "dense in its stream");
            sum += i64::from_be_bytes(event.data[..].try_into().expect("an amount"));
        }
    }
    assert_eq!(sum, 500);
    open.close().await;
}

pub(crate) async fn a_stream_wrongly_thought_new_is_read_and_decided_again(bench: Bench) {
    let open = bench.open().await;
    open.ledger
        .execute(Command::Open(account("a"), 5))
        .await
        .expect("opened");
    open.close().await;

    let open = bench.open().await;
    let (again, other, seen) = tokio::join!(
        open.ledger.execute(Command::Open(account("a"), -3)),
        open.ledger.execute(Command::Open(account("b"), 1)),
        open.ledger.execute(Command::Balance("b")),
    );
    assert_eq!(
        (
            again.expect("decided on what is there").reply,
            other.expect("new").reply
        ),
        (2, 1)
    );
    assert_eq!(
        seen.expect("seen").reply,
        1,
        "in the order in which they came, a loser excepted"
    );
    open.close().await;

    let open = bench.open().await;
    assert_eq!(
        open.ledger
            .execute(Command::Probe(account("a")))
            .await
            .expect("looked")
            .reply,
        2
    );
    let refused = open.ledger.execute(Command::Open(account("a"), -3)).await;
    assert_eq!(refused, Err(ExecuteError::Rejected(Refusal::TooLittle(2))));
    open.close().await;
}

pub(crate) async fn whoever_comes_after_a_stream_wrongly_thought_new_waits_for_it_too(
    bench: Bench,
) {
    let open = bench.open().await;
    open.ledger
        .execute(Command::Open(account("a"), 5))
        .await
        .expect("opened");
    open.close().await;

    let open = bench.open().await;
    // One batch: the first one looks at what it thought new, and writes nothing; so the account has to be read before either is decided.
    let (seen, added) = tokio::join!(
        open.ledger.execute(Command::Probe(account("a"))),
        open.ledger.execute(Command::Add("a", 1)),
    );
    assert_eq!(
        (seen.expect("looked").reply, added.expect("added").reply),
        (5, 6)
    );
    open.close().await;
}

pub(crate) async fn states_that_left_memory_are_read_again(bench: Bench) {
    let options = CommitterOptions {
        cache: 4,
        max_batch: 8,
        ..CommitterOptions::default()
    };
    let open = bench.open_with(options, 1).await;
    for round in 1..=3 {
        let adding = (0..30).map(|number| {
            open.ledger
                .execute(Command::AddTo(account(&format!("n{number}")), number))
        });
        for (number, done) in join_all(adding).await.into_iter().enumerate() {
            assert_eq!(done.expect("added").reply, number as i64 * round);
        }
    }
    open.ledger
        .execute(Command::Close(account("n3")))
        .await
        .expect("closed");
    let done = open
        .ledger
        .execute(Command::AddTo(account("n3"), 1))
        .await
        .expect("added");
    assert_eq!(done.reply, 10);
    open.close().await;
}

pub(crate) async fn a_snapshot_stands_for_the_events_before_it(bench: Bench) {
    let options = || CommitterOptions {
        snapshot_every: 10,
        ..CommitterOptions::default()
    };
    let open = bench.open_with(options(), 1).await;
    for _ in 0..35 {
        open.ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("added");
    }
    let expected = (
        Account {
            balance: 35,
            events: 35,
            closed: false,
        },
        35,
    );
    assert_eq!(
        open.ledger.load(&account("a")).await.expect("loads"),
        expected
    );
    open.close().await;

    let open = bench.open_with(options(), 1).await;
    assert_eq!(
        open.ledger
            .execute(Command::Add("a", 1))
            .await
            .expect("added")
            .reply,
        36
    );
    if !matches!(bench, Bench::Simulated(_)) {
        let row = open
            .ledger
            .reader()
            .fetch_optional("SELECT version FROM ledger_snapshots", params![])
            .await
            .expect("a query");
        assert_eq!(
            row.expect("a snapshot").get::<u64>(0).expect("its version"),
            30
        );
        // A snapshot of another time, which this decider cannot read.
        let spoil = match bench {
            Bench::Postgres { .. } => "UPDATE ledger_snapshots SET data = '\\x00'",
            _ => "UPDATE ledger_snapshots SET data = x'00'",
        };
        script(&open, spoil).await;
        let expected = (
            Account {
                balance: 36,
                events: 36,
                closed: false,
            },
            36,
        );
        assert_eq!(
            open.ledger.load(&account("a")).await.expect("loads"),
            expected
        );
        open.close().await;
        let open = bench.open_with(options(), 1).await;
        assert_eq!(
            open.ledger
                .execute(Command::Balance("a"))
                .await
                .expect("seen")
                .reply,
            36
        );
        return open.close().await;
    }
    open.close().await;
}

pub(crate) async fn a_decision_may_touch_only_what_it_named(bench: Bench) {
    let open = bench.open().await;
    let (cheat, peek, fair) = tokio::join!(
        open.ledger.execute(Command::Cheat),
        open.ledger.execute(Command::Peek),
        open.ledger.execute(Command::Add("a", 1)),
    );
    for refused in [cheat, peek] {
        match refused {
            Err(ExecuteError::Storage(error)) => {
                assert!(matches!(error.0, Error::Contract(_)), "{error}")
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fair.expect("added").position, 1);
    open.close().await;
}

pub(crate) async fn the_observer_sees_what_is_durable_before_the_caller(bench: Bench) {
    let open = bench.open().await;
    let first = open
        .ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    assert_eq!(
        open.seen.lock().expect("seen").len(),
        1,
        "seen before it was answered"
    );
    let (one, two) = tokio::join!(
        open.ledger.execute(Command::Move("a", "b", 2)),
        open.ledger.execute(Command::Move("b", "a", 1))
    );
    assert!(one.is_ok() && two.is_ok());
    let seen = open.seen.lock().expect("seen").clone();
    let shape: Vec<_> = seen
        .iter()
        .map(|(position, stream, version, ..)| (*position, stream.as_str(), *version))
        .collect();
    assert_eq!(
        shape,
        [
            (1, "account/a", 1),
            (2, "account/a", 2),
            (3, "account/b", 1),
            (4, "account/b", 2),
            (5, "account/a", 3)
        ]
    );
    assert_eq!(seen[0].3, Event::Added(5));
    assert_eq!(
        seen[4].4,
        Account {
            balance: 4,
            events: 3,
            closed: false
        }
    );
    assert_eq!(first.position, 1);
    open.close().await;
}

pub(crate) async fn names_of_streams_are_listed_in_order(bench: Bench) {
    let open = bench.open().await;
    for name in ["b", "a", "c", "a"] {
        open.ledger
            .execute(Command::AddTo(account(name), 1))
            .await
            .expect("added");
    }
    open.ledger
        .execute(Command::AddTo("other/x".into(), 1))
        .await
        .expect("added");
    let names = async |prefix: &str, after: &str| {
        let names = open.ledger.streams(prefix, after, 2).await.expect("listed");
        names
            .into_iter()
            .map(|stream| stream.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("account/", "").await, ["account/a", "account/b"]);
    assert_eq!(names("account/", "account/b").await, ["account/c"]);
    assert_eq!(names("", "account/c").await, ["other/x"]);
    open.close().await;
}

pub(crate) async fn a_name_that_no_store_can_keep_is_refused_alone(bench: Bench) {
    let open = bench.open().await;
    let long = "x".repeat(3000);
    // One batch: what is refused must not take the others along.
    let bad = join_all([
        open.ledger.execute(Command::AddTo(account("a\0b"), 1)),
        open.ledger.execute(Command::AddTo(account(&long), 1)),
        open.ledger
            .execute(Command::Request("id\0".to_owned(), "a", 1)),
        open.ledger.execute(Command::Request(long.clone(), "a", 1)),
    ]);
    let fair = join_all([
        open.ledger.execute(Command::Add("a", 1)),
        open.ledger
            .execute(Command::Request("id".to_owned(), "b", 1)),
    ]);
    let (bad, fair) = tokio::join!(bad, fair);
    for refused in bad {
        match refused {
            Err(ExecuteError::Storage(error)) => {
                assert!(matches!(error.0, Error::Name { .. }), "{error}");
                assert!(error.to_string().len() < 500, "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    for done in fair {
        assert_eq!(done.expect("not theirs").reply, 1);
    }
    assert_eq!(open.ledger.head(), 2);
    open.close().await;
}
