//! What a kill leaves behind is resumed.

use sagamesh_api::saga::v1::*;
use transition::Kind;

use crate::support::*;

#[tokio::test]
async fn sagas_go_on_after_a_kill_in_whatever_state_they_were() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![
                step("a", "one", &[]),
                step("b", "two", &["one"]),
                step("c", "three", &["two"]),
            ],
        ))
        .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    let mut b = system.link("b", "b1", &["two.do", "two.undo"], 10).await;
    for id in ["sent", "half", "undone"] {
        system.start_saga("order", id).await;
    }
    let sent = a.command().await;
    for _ in 0..2 {
        let command = a.command().await;
        a.answer(&command, success("kept"));
    }
    let half = b.command().await;
    let undone = b.command().await;
    b.answer(&undone, rejection("NO"));
    let undo = a.command().await;
    assert_eq!(undo.direction(), Direction::Compensation);
    let before = system.get("undone").await;
    system.kill().await;

    let system = System::start(dir.path()).await;
    let after = system.get("undone").await;
    assert_eq!(
        (after.version, after.state()),
        (before.version, SagaState::Compensating)
    );
    // Recorded dispatches count as sent: whoever comes back with them finishes them.
    let mut back = hello("a", "a1", &["one.do", "one.undo"], 10);
    back.attempts_in_progress = vec![sent.lease_token, undo.lease_token];
    let a = system.link_with(back).await.expect("welcome");
    assert_eq!(
        state_of(&system.get("sent").await, "one").waits_on(),
        WaitsOn::Result
    );
    a.answer(&sent, success(""));
    a.answer(&undo, success(""));
    let mut back = hello("b", "b1", &["two.do", "two.undo"], 10);
    back.attempts_in_progress = vec![half.lease_token];
    let mut b = system.link_with(back).await.expect("welcome");
    b.answer(&half, success(""));
    let two = b.command().await;
    assert_eq!(two.saga_id, "sent");
    b.answer(&two, success(""));
    system
        .worker("c", &["three.do", "three.undo"], |_| Some(success("")))
        .await;
    assert_eq!(system.ended("sent").await.state(), SagaState::Completed);
    assert_eq!(system.ended("half").await.state(), SagaState::Completed);
    assert_eq!(system.ended("undone").await.state(), SagaState::Compensated);
}

#[tokio::test]
async fn an_attempt_that_nobody_comes_back_with_times_out_from_the_restart_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![with_call(step("a", "one", &[]), |call| {
                call.timeout = millis(150)
            })],
        ))
        .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 1).await;
    system.start_saga("order", "s-1").await;
    let first = a.command().await;
    system.kill().await;
    let system = System::start(dir.path()).await;
    let mut a = system.link("a", "a2", &["one.do", "one.undo"], 1).await;
    let second = a.command().await;
    assert_eq!((first.attempt, second.attempt), (1, 2));
    system
        .until("s-1", |kind| matches!(kind, Kind::OutcomeUnknown(_)))
        .await;
    a.answer(&second, success(""));
    assert_eq!(system.ended("s-1").await.state(), SagaState::Completed);
}

#[tokio::test]
async fn definitions_participants_and_parked_sagas_survive() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let put = PutParticipantRequest {
        name: "extra".to_owned(),
        max_concurrency: 7,
    };
    system
        .operators
        .clone()
        .put_participant(put)
        .await
        .expect("put");
    let pause = PauseParticipantRequest {
        name: "b".to_owned(),
        operator: "ann".to_owned(),
        reason: "x".to_owned(),
    };
    system
        .operators
        .clone()
        .pause_participant(pause)
        .await
        .expect("paused");
    let hash = system
        .define(definition("order", vec![step("extra", "one", &[])]))
        .await;
    system.kill().await;
    let system = System::start(dir.path()).await;
    let listed = system
        .operators
        .clone()
        .list_participants(ListParticipantsRequest {})
        .await
        .expect("a list")
        .into_inner()
        .participants;
    let shown: Vec<_> = listed
        .iter()
        .map(|one| (one.name.as_str(), one.max_concurrency, one.paused))
        .collect();
    assert_eq!(
        shown,
        [
            ("a", 0, false),
            ("b", 0, true),
            ("c", 0, false),
            ("extra", 7, false)
        ]
    );
    let saga = system.start_saga("order", "s-1").await;
    assert_eq!(saga.definition_hash, hash);
}

#[tokio::test]
async fn a_thousand_sagas_in_flight_are_resumed() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![step("a", "one", &[]), step("a", "two", &["one"])],
        ))
        .await;
    let started = futures_util::future::join_all(
        (0..1_000).map(|number| system.try_start(start("order", &format!("s-{number:04}")))),
    )
    .await;
    assert!(started.iter().all(|one| one.is_ok()));
    // Half of them are under way when it is killed.
    let mut a = system
        .link(
            "a",
            "a1",
            &["one.do", "one.undo", "two.do", "two.undo"],
            500,
        )
        .await;
    let mut held = Vec::new();
    for _ in 0..500 {
        held.push(a.command().await);
    }
    system.kill().await;
    let system = System::start(dir.path()).await;
    // The same instance comes back with what it holds, and does the rest anew as attempts time out or queues are filled again.
    let mut back = hello(
        "a",
        "a1",
        &["one.do", "one.undo", "two.do", "two.undo"],
        2_000,
    );
    back.attempts_in_progress = held.iter().map(|command| command.lease_token).collect();
    let mut a = system.link_with(back).await.expect("welcome");
    for command in &held {
        a.answer(command, success(""));
    }
    tokio::spawn(async move {
        while let Ok(Some(message)) = a.next().await {
            if let participate_response::Message::Command(command) = message {
                a.answer(&command, success(""));
                a.credit(1);
            }
        }
    });
    for command in held {
        assert_eq!(
            system.ended(&command.saga_id).await.state(),
            SagaState::Completed
        );
    }
}
