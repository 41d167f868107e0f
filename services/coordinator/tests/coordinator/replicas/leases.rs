//! What is handed over on purpose, and what a replica does while it cannot renew its lease.

use std::time::Duration;

use sagamesh_api::saga::v1::*;

use super::*;

#[tokio::test]
async fn a_replica_that_stops_hands_its_sagas_over_and_gets_its_shard_back() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    zero.define(two_steps()).await;
    let mut there = zero.link("a", "a-1", &ACTIONS, 1).await;
    let mut here = one.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "sent").await;
    let sent = there.command().await;
    // No credit is left for this one.
    zero.start_saga("order", "unsent").await;
    let waited = tokio::spawn({
        let mut request = start("order", "sent");
        request.wait = millis(20_000);
        let mut client = one.sagas.clone();
        async move { client.start_saga(request).await }
    });
    zero.stop().await;
    // What was never sent is sent now, as the attempt that it was; the lease has not run out.
    let unsent = here.command().await;
    assert_eq!((unsent.saga_id.as_str(), unsent.attempt), ("unsent", 1));
    here.answer(&sent, success(""));
    here.answer(&unsent, success(""));
    for _ in 0..2 {
        let command = here.command().await;
        assert_eq!((command.step.as_str(), command.attempt), ("two", 1));
        here.answer(&command, success(""));
    }
    for id in ["sent", "unsent"] {
        assert_eq!(one.ended(id).await.state(), SagaState::Completed);
    }
    let waited = waited.await.expect("a task").expect("ended").into_inner();
    assert_eq!(waited.saga.expect("a saga").state(), SagaState::Completed);
    // One more, which goes home with its shard.
    one.start_saga("order", "other").await;
    let other = here.command().await;
    let zero = cluster.start(0).await;
    let watch = one.watch("other", 0).await;
    zero.start_saga("order", "home").await;
    let mut there = zero.link("a", "a-1", &ACTIONS, 10).await;
    soon("its shard to come home", async {
        let mut number = 0;
        loop {
            number += 1;
            let id = format!("probe-{number}");
            zero.start_saga("order", &id).await;
            let first = zero.watch(&id, 0).await.next().await.expect("an event");
            if shard(&first) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let command = there.command().await;
    there.answer(&command, success(""));
    here.answer(&other, success(""));
    let mut watch = watch;
    while let Some(event) = watch.next().await {
        let done = |it: &Transition| matches!(&it.kind, Some(transition::Kind::Succeeded(_)));
        if event.transitions.iter().any(done) {
            break;
        }
    }
    zero.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn what_was_refused_while_a_lease_could_not_be_renewed_is_done_once_it_is() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let mut wait = step("a", "wait", &[]);
    wait.phase = Phase::ReadOnly.into();
    wait.kind = Some(step::Kind::Delay(Delay {
        duration: millis(3_000),
    }));
    let steps = vec![wait, step("a", "one", &["wait"])];
    zero.define(definition("order", steps)).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "s").await;
    // Renewals wait for this row until the lease and the delay are over, and the end of the delay was not written.
    let mut hand = cluster.connection().await;
    let held = hold_renewals(&mut hand).await;
    tokio::time::sleep(SHORT * 2).await;
    let before = zero.get("s").await;
    assert_eq!(state_of(&before, "wait").state(), StepState::Waiting);
    held.rollback().await.expect("let go");
    let command = link.command().await;
    link.answer(&command, success(""));
    assert_eq!(zero.ended("s").await.state(), SagaState::Completed);
    zero.stop().await;
}

#[tokio::test]
async fn a_replica_that_cannot_renew_its_lease_sends_new_work_elsewhere() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let mut health = zero.health().await;
    assert_eq!(health.next().await, ServingStatus::Serving);
    let mut hand = cluster.connection().await;
    let held = hold_renewals(&mut hand).await;
    assert_eq!(health.next().await, ServingStatus::NotServing);
    held.rollback().await.expect("let go");
    assert_eq!(health.next().await, ServingStatus::Serving);
    zero.stop().await;
}

#[tokio::test]
async fn participants_learn_of_replicas_that_come_and_go() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let first = participate_request::Message::Hello(hello("a", "a-1", &ACTIONS, 1));
    let mut link = zero.raw_link(first).await.expect("a stream");
    let welcome = match link.next().await.expect("no error") {
        Some(participate_response::Message::Welcome(welcome)) => welcome,
        other => panic!("not a welcome: {other:?}"),
    };
    assert_eq!(welcome.coordinator, "coordinator-0");
    assert_eq!(welcome.peers.len(), 1);
    let one = cluster.start(1).await;
    for expected in [2, 1] {
        let peers = match soon("news", link.next()).await.expect("no error") {
            Some(participate_response::Message::Peers(peers)) => peers.addresses,
            other => panic!("not the replicas: {other:?}"),
        };
        assert_eq!(peers.len(), expected);
        assert!(peers.contains(&welcome.peers[0]));
        if expected == 2 {
            one.tasks().begin_drain();
        }
    }
    one.stop().await;
    zero.stop().await;
}
