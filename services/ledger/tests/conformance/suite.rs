//! The cases.

use ledger::ExecuteError;

use crate::accounts::{Account, Command, Event, Refusal, account};
use crate::bench::Bench;

pub async fn events_are_appended_and_read_back(bench: Bench) {
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
    open.close().await;

    let open = bench.open().await;
    let events = open
        .ledger
        .read_stream(&account("a"), 0)
        .await
        .expect("readable");
    assert_eq!(events, [(1, Event::Added(5)), (2, Event::Added(7))]);
    assert_eq!(
        open.ledger.load(&account("a")).await.expect("loads"),
        (
            Account {
                balance: 12,
                events: 2,
                closed: false
            },
            2
        )
    );
    let third = open
        .ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    assert_eq!((third.reply, third.position), (13, 3));
    open.close().await;
}

pub async fn a_rejection_appends_nothing(bench: Bench) {
    let open = bench.open().await;
    let refused = open.ledger.execute(Command::Add("a", -1)).await;
    assert_eq!(refused, Err(ExecuteError::Rejected(Refusal::TooLittle(0))));
    assert_eq!(open.ledger.head(), 0);
    open.close().await;
}

pub async fn two_streams_change_together_or_not_at_all(bench: Bench) {
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

pub async fn a_request_is_carried_out_once(bench: Bench) {
    let open = bench.open().await;
    let request = |amount| Command::Request("r1".into(), "a", amount);
    let (one, two) = tokio::join!(
        open.ledger.execute(request(5)),
        open.ledger.execute(request(5))
    );
    assert_eq!(
        (one.expect("done").reply, two.expect("replayed").reply),
        (5, 5)
    );
    open.close().await;

    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    assert_eq!(
        open.ledger
            .execute(request(5))
            .await
            .expect("replayed")
            .reply,
        5
    );
    assert_eq!(
        open.ledger.execute(request(6)).await,
        Err(ExecuteError::Rejected(Refusal::OtherRequest))
    );
    assert_eq!(
        open.ledger
            .execute(Command::Balance("a"))
            .await
            .expect("seen")
            .reply,
        6
    );
    open.close().await;
}

pub async fn a_projection_follows(bench: Bench) {
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
    open.ledger.rebuild("balances").await.expect("rebuilt");
    assert_eq!(open.balance("account/a", done.position).await, Some(12));
    open.close().await;

    let open = bench.open_with(Default::default(), 2).await;
    assert_eq!(open.balance("account/a", done.position).await, Some(24));
    open.close().await;
}
