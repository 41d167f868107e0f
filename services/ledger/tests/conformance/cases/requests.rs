//! The inbox.

use futures_util::future::join_all;
use ledger::{Cursor, ExecuteError};

use crate::accounts::{Command, Refusal};
use crate::bench::Bench;

fn request(id: &str, amount: i64) -> Command {
    Command::Request(id.to_owned(), "a", amount)
}

pub(crate) async fn a_request_is_carried_out_once(bench: Bench) {
    let open = bench.open().await;
    assert_eq!(
        open.ledger
            .execute(request("r1", 5))
            .await
            .expect("done")
            .reply,
        5
    );
    open.close().await;

    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 1))
        .await
        .expect("added");
    assert_eq!(
        open.ledger
            .execute(request("r1", 5))
            .await
            .expect("replayed")
            .reply,
        5
    );
    assert_eq!(
        open.ledger.execute(request("r1", 6)).await,
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

pub(crate) async fn concurrent_repeats_of_a_request_are_carried_out_once(bench: Bench) {
    let open = bench.open().await;
    let repeats = (0..60).map(|number| {
        open.ledger
            .execute(request(&format!("r{}", number % 20), 1))
    });
    assert!(join_all(repeats).await.iter().all(Result::is_ok));
    assert_eq!(
        open.ledger
            .execute(Command::Balance("a"))
            .await
            .expect("seen")
            .reply,
        20
    );
    open.close().await;
}

pub(crate) async fn a_cursor_is_stored_with_the_effects(bench: Bench) {
    let open = bench.open().await;
    assert_eq!(open.ledger.cursor("accounts").await.expect("read"), None);
    let (one, two) = tokio::join!(
        open.ledger.execute(Command::Consume(6, "a", 1)),
        open.ledger.execute(Command::Consume(7, "a", 1))
    );
    assert!(one.is_ok() && two.is_ok());
    let refused = open.ledger.execute(Command::Consume(8, "a", -9)).await;
    assert!(matches!(refused, Err(ExecuteError::Rejected(_))));
    open.close().await;

    let open = bench.open().await;
    let expected = Cursor {
        consumer: "accounts".into(),
        log_id: "other".into(),
        position: 7,
    };
    assert_eq!(
        open.ledger.cursor("accounts").await.expect("read"),
        Some(expected)
    );
    open.close().await;
}
