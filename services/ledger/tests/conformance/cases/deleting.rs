//! Streams that leave the log.

use ledger::{CommitterOptions, StreamId};

use crate::accounts::{Command, account};
use crate::bench::{Bench, Open};

async fn add(open: &Open, name: &'static str, amount: i64) -> (i64, u64) {
    let done = open.ledger.execute(Command::Add(name, amount)).await;
    let done = done.expect("added");
    (done.reply, done.position)
}

async fn delete(open: &Open, streams: Vec<StreamId>) -> Option<StreamId> {
    let work = open
        .ledger
        .transact(move |tx| Box::pin(async move { tx.delete_streams(&streams).await }));
    work.await.expect("deleted")
}

/// Streams of what is left of the log.
async fn left(open: &Open) -> Vec<String> {
    // A process that has just started remembers no events.
    let events = open.ledger.read_log(0, 10).await.expect("readable");
    events
        .iter()
        .map(|event| event.stream.key().to_owned())
        .collect()
}

#[tokio::test]
async fn streams_leave_but_for_the_newest_event_and_begin_again_from_nothing() {
    for bench in [Some(Bench::sqlite()), Bench::postgres().await] {
        let Some(bench) = bench else { continue };
        let options = || CommitterOptions {
            snapshot_every: 1,
            ..CommitterOptions::default()
        };
        let open = bench.open_with(options(), 1).await;
        for name in ["a", "a", "b", "c"] {
            add(&open, name, 5).await;
        }
        assert_eq!(delete(&open, vec![]).await, None);
        let kept = delete(&open, vec![account("a"), account("c"), account("none")]).await;
        assert_eq!(kept, Some(account("c")));
        open.close().await;

        let open = bench.open_with(options(), 1).await;
        assert_eq!(
            (left(&open).await, open.ledger.head()),
            (vec!["b".into(), "c".into()], 4)
        );
        // Nothing of it is left, its snapshot neither.
        assert_eq!(add(&open, "a", 1).await, (1, 5));
        assert_eq!(delete(&open, vec![account("c")]).await, None);
        open.close().await;

        let open = bench.open_with(options(), 1).await;
        assert_eq!(left(&open).await, ["b", "a"]);
        assert_eq!(add(&open, "b", 1).await, (6, 6));
        open.close().await;
    }
}
