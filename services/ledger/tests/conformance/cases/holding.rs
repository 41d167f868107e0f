//! While a commit is written but not yet durable: only the simulated disk can be held there.

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use ledger::{CommitterOptions, ExecuteError, SimulatedDisk};

use crate::accounts::{Command, account};
use crate::bench::Bench;

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_is_ahead_of_what_is_durable() {
    let disk = SimulatedDisk::new();
    let bench = Bench::Simulated(disk.clone());
    let open = bench.open().await;
    open.ledger
        .execute(Command::Add("a", 5))
        .await
        .expect("added");
    open.balance("account/a", 1).await;
    let mut subscription = open.ledger.subscribe(1).expect("at the head");

    let ledger = open.ledger.clone();
    disk.hold_syncs();
    let mut add = Box::pin(ledger.execute(Command::Add("a", 1)));
    let mut look = Box::pin(ledger.execute(Command::Balance("a")));
    let mut refused = Box::pin(ledger.execute(Command::Add("a", -100)));
    assert!((&mut add).now_or_never().is_none());
    assert!((&mut look).now_or_never().is_none());
    assert!((&mut refused).now_or_never().is_none());
    settle().await;
    assert!((&mut add).now_or_never().is_none(), "not answered");
    assert!(
        (&mut look).now_or_never().is_none(),
        "what was decided on it is not answered either"
    );
    assert!((&mut refused).now_or_never().is_none(), "nor a refusal");
    assert_eq!(open.ledger.head(), 1);
    assert!(subscription.next(10).now_or_never().is_none());
    assert_eq!(open.seen.lock().expect("seen").len(), 1);
    assert_eq!(open.balance("account/a", 1).await, Some(5));
    assert_eq!(
        open.ledger
            .load(&account("a"))
            .await
            .expect("loads")
            .0
            .balance,
        5
    );

    disk.crash();
    open.close().await;
    assert_eq!(
        add.await,
        Err(ExecuteError::Unavailable),
        "its outcome is not known"
    );
    assert_eq!(look.await, Err(ExecuteError::Unavailable));
    assert_eq!(refused.await, Err(ExecuteError::Unavailable));
    drop(subscription);
    let open = bench.open().await;
    assert_eq!(
        open.ledger
            .execute(Command::Balance("a"))
            .await
            .expect("seen")
            .reply,
        5
    );
    open.close().await;
}

#[tokio::test]
async fn the_next_batch_gathers_while_one_is_flushed() {
    let disk = SimulatedDisk::new();
    let open = Bench::Simulated(disk.clone()).open().await;
    disk.hold_syncs();
    let adding = join_all((0..200).map(|number| {
        open.ledger
            .execute(Command::AddTo(account(&format!("n{number}")), 1))
    }));
    let mut adding = Box::pin(adding);
    assert!((&mut adding).now_or_never().is_none());
    settle().await;
    disk.release_syncs();
    assert!(adding.await.iter().all(Result::is_ok));
    assert!(
        open.ledger.commits() <= 2,
        "{} commits for 200 commands",
        open.ledger.commits()
    );
    open.close().await;
}

#[tokio::test]
async fn a_full_queue_sheds_but_not_what_is_posted() {
    let disk = SimulatedDisk::new();
    let options = CommitterOptions {
        queue: 3,
        max_batch: 2,
        ..CommitterOptions::default()
    };
    let open = Bench::Simulated(disk.clone()).open_with(options, 1).await;
    disk.hold_syncs();
    let mut calls: Vec<_> = (0..2)
        .map(|_| Box::pin(open.ledger.execute(Command::Add("a", 1))))
        .collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    settle().await;
    let mut queued: Vec<_> = (0..3)
        .map(|_| Box::pin(open.ledger.execute(Command::Add("a", 1))))
        .collect();
    for call in &mut queued {
        assert!(call.now_or_never().is_none());
    }
    assert_eq!(open.ledger.queue_depth(), 3);
    assert_eq!(
        open.ledger.execute(Command::Add("a", 1)).await,
        Err(ExecuteError::Overloaded)
    );
    let (answer, answered) = tokio::sync::oneshot::channel();
    open.ledger.post(Command::Add("a", 1));
    open.ledger.post_with(Command::Add("a", 1), |outcome| {
        answer.send(outcome).expect("somebody waits")
    });
    disk.release_syncs();
    assert_eq!(
        answered.await.expect("called back").expect("added").reply,
        7
    );
    assert!(
        join_all(calls)
            .await
            .iter()
            .chain(&join_all(queued).await)
            .all(Result::is_ok)
    );
    open.close().await;
}

#[tokio::test]
async fn after_shutdown_commands_are_refused() {
    let open = Bench::simulated().open().await;
    let ledger = open.ledger.clone();
    let pending = open.ledger.execute(Command::Add("a", 1));
    let (done, ()) = tokio::join!(pending, async {
        open.tasks()
            .shutdown(std::time::Duration::from_secs(5))
            .await
            .expect("all tasks end");
    });
    assert_eq!(done.expect("taken before the end").reply, 1);
    assert_eq!(
        ledger.execute(Command::Add("a", 1)).await,
        Err(ExecuteError::Unavailable)
    );
}
