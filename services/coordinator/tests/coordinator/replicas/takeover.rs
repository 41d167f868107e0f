//! A replica that was killed, or stood still, or came back: its sagas go on, once.

use std::collections::BTreeMap;
use std::time::Duration;

use sagamesh_api::saga::v1::*;
use tokio::sync::mpsc;
use tonic::Code;

use super::*;

#[tokio::test]
async fn the_sagas_of_a_replica_that_was_killed_go_on_with_another_one() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    zero.define(two_steps()).await;
    let mut there = zero.link("a", "a-1", &ACTIONS, 10).await;
    let mut here = one.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "killed").await;
    let watching = one.watch("killed", 0).await;
    let first = there.command().await;
    zero.kill().await;
    // The participant reports on the stream that it has left; nobody owns the saga yet.
    here.answer(&first, success("1"));
    let second = here.command().await;
    assert_eq!((second.step.as_str(), second.attempt), ("two", 1));
    here.answer(&second, success("2"));
    let events = watching.all().await;
    assert!(whole(&events), "{events:?}");
    let saga = one.ended("killed").await;
    assert_eq!(saga.state(), SagaState::Completed);
    assert_eq!(
        saga.steps
            .iter()
            .map(|step| step.attempts)
            .collect::<Vec<_>>(),
        [1, 1]
    );
    one.stop().await;
}

#[tokio::test]
async fn a_replica_that_comes_back_under_its_name_goes_on_at_once() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    zero.define(two_steps()).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "s").await;
    let first = link.command().await;
    zero.kill().await;
    let zero = cluster.start(0).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 10).await;
    link.answer(&first, success(""));
    let second = link.command().await;
    // It may also report to a replica that does not run the saga.
    let elsewhere = one.link("a", "a-1", &ACTIONS, 10).await;
    elsewhere.answer(&second, success(""));
    let saga = one.ended("s").await;
    assert_eq!(saga.state(), SagaState::Completed);
    zero.stop().await;
    one.stop().await;
}

/// Answers every command on a stream with success, and tells of it.
fn answering(mut link: Link, told: &mpsc::UnboundedSender<Command>) {
    let told = told.clone();
    tokio::spawn(async move {
        while let Ok(Some(message)) = link.next().await {
            if let participate_response::Message::Command(command) = message {
                link.answer(&command, success(""));
                drop(told.send(command));
            }
        }
    });
}

#[tokio::test]
async fn a_replica_that_stood_still_beyond_its_lease_writes_and_sends_nothing() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    let quick = |step| with_call(step, |call| call.timeout = millis(500));
    let steps = vec![quick(step("a", "one", &[])), step("b", "two", &[])];
    zero.define(definition("order", steps)).await;
    let mut b = zero.link("b", "b-1", &["two.do", "two.undo"], 10).await;
    // No credit: the first step waits in its queue.
    let a = zero.link("a", "a-1", &ACTIONS, 0).await;
    zero.start_saga("order", "s").await;
    let two = b.command().await;
    let (told, mut commands) = mpsc::unbounded_channel();
    answering(one.link("a", "a-1", &ACTIONS, 10).await, &told);
    answering(
        one.link("b", "b-1", &["two.do", "two.undo"], 10).await,
        &told,
    );
    let watching = one.watch("s", 0).await;
    zero.freeze(SHORT * 3).await;
    // Both reach it while it stands still, and are read before it has looked at its lease.
    a.credit(10);
    b.answer(&two, success("late"));
    answering(a, &told);
    answering(b, &told);
    let cancel = CancelSagaRequest {
        saga_id: "s".to_owned(),
        reason: "taken over".to_owned(),
    };
    soon("the other one to take over", async {
        loop {
            match one.sagas.clone().cancel_saga(cancel.clone()).await {
                Ok(_) => return,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let events = watching.all().await;
    assert!(whole(&events), "{events:?}");
    assert_eq!(zero.ended("s").await.state(), SagaState::Compensated);
    zero.stop().await;
    one.stop().await;
    drop(told);
    let mut undone = BTreeMap::new();
    while let Some(command) = commands.recv().await {
        // Nothing forward is released after the abort, which the one that stood still knows nothing of.
        assert_eq!(command.direction(), Direction::Compensation, "{command:?}");
        undone.insert(command.step, command.action_output);
    }
    // What arrived through the one that stood still is on record.
    let late = Some(text("late"));
    assert_eq!(
        undone,
        BTreeMap::from([("one".to_owned(), None), ("two".to_owned(), late)])
    );
}

#[tokio::test]
async fn a_replica_alone_goes_on_after_it_stood_still() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let mut wait = step("a", "wait", &[]);
    wait.phase = Phase::ReadOnly.into();
    wait.kind = Some(step::Kind::Delay(Delay {
        duration: millis(1_500),
    }));
    let steps = vec![wait, step("a", "one", &["wait"]), step("a", "two", &[])];
    zero.define(definition("order", steps)).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 0).await;
    zero.start_saga("order", "s").await;
    let watching = zero.watch("s", 0).await;
    // Meanwhile its lease and the delay run out; nobody takes the one, and the other one is met by a lease that is over.
    zero.freeze(SHORT * 2).await;
    link.credit(10);
    for _ in 0..2 {
        let command = link.command().await;
        assert_eq!(command.attempt, 1, "{command:?}");
        link.answer(&command, success(""));
    }
    let events = watching.all().await;
    assert!(whole(&events), "{events:?}");
    assert_eq!(zero.get("s").await.state(), SagaState::Completed);
    zero.stop().await;
}
