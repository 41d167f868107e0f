//! Participants that come, go, and send garbage.

use sagamesh_api::saga::v1::*;
use transition::Kind;

use crate::support::*;

async fn with_one_step(dir: &std::path::Path) -> System {
    let system = System::start(dir).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    system
}

const ACTIONS: &[&str] = &["one.do", "one.undo"];

#[tokio::test]
async fn the_first_message_must_be_a_sensible_hello() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = with_one_step(dir.path()).await;
    let credit = participate_request::Message::Credit(Credit { commands: 1 });
    let refused = system.raw_link(credit).await.err().expect("no hello");
    assert_eq!(reason(&refused), "HELLO_EXPECTED");
    let refused = system
        .link_with(hello("nobody", "n1", ACTIONS, 1))
        .await
        .err()
        .expect("unknown");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::FailedPrecondition, "PARTICIPANT_UNKNOWN")
    );
    let bad = Hello {
        participant: "A B".to_owned(),
        credits: 100_001,
        actions: vec!["one do".to_owned()],
        ..Hello::default()
    };
    let refused = system.link_with(bad).await.err().expect("bad fields");
    let fields: Vec<_> = chassis::problem::fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        [
            "hello.participant",
            "hello.instance",
            "hello.actions[0]",
            "hello.credits"
        ]
    );
}

#[tokio::test]
async fn a_participant_is_who_the_mesh_says_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = with_one_step(dir.path()).await;
    let first = || participate_request::Message::Hello(hello("a", "i1", ACTIONS, 1));
    let own = "a.sagamesh.serviceaccount.identity.linkerd.cluster.local";
    let mut link = system.link_as(first(), Some(own)).await.expect("itself");
    assert!(matches!(
        link.next().await,
        Ok(Some(participate_response::Message::Welcome(_)))
    ));
    let other = "payments.sagamesh.serviceaccount.identity.linkerd.cluster.local";
    let refused = system.link_as(first(), Some(other)).await;
    let refused = refused.err().expect("somebody else");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (
            tonic::Code::PermissionDenied,
            "PARTICIPANT_IDENTITY_MISMATCH"
        )
    );
    assert!(
        refused.message().contains("\"payments\"") && refused.message().contains("\"a\""),
        "{refused:?}"
    );
}

#[tokio::test]
async fn messages_that_make_no_sense_end_the_stream_with_a_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = with_one_step(dir.path()).await;
    let mut a = system.link("a", "a1", ACTIONS, 1).await;
    a.send(participate_request::Message::Hello(hello(
        "a", "a1", ACTIONS, 1,
    )));
    assert_eq!(reason(&a.end().await), "HELLO_REPEATED");
    let mut a = system.link("a", "a1", ACTIONS, 1).await;
    a.credit(0);
    assert_eq!(
        chassis::problem::fields(&a.end().await)[0].0,
        "credit.commands"
    );
    // What was not answered on a stream that broke is still there.
    system.start_saga("order", "s-1").await;
    let mut a = system.link("a", "a1", ACTIONS, 1).await;
    assert_eq!(a.command().await.saga_id, "s-1");
}

#[tokio::test]
async fn results_that_do_not_count_are_answered_with_their_status() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let steps = vec![step("a", "one", &[]), step("b", "two", &["one"])];
    system.define(definition("order", steps)).await;
    let mut a = system.link("a", "a1", ACTIONS, 10).await;
    system.start_saga("order", "s-1").await;
    let first = a.command().await;
    a.answer(&first, result::Outcome::Unknown(failure("LOST_TRACK")));
    let second = a.command().await;

    let mut wrong = result_of(&second, success(""));
    wrong.outcome = None;
    a.send(participate_request::Message::Result(wrong));
    let ack = a.ack().await;
    assert_eq!(
        (ack.lease_token, ack.status()),
        (second.lease_token, ResultStatus::Invalid)
    );
    assert!(ack.message.contains("outcome"));

    let huge = "x".repeat(1_048_577);
    a.answer(&second, success(&huge));
    let ack = a.ack().await;
    assert_eq!(ack.status(), ResultStatus::Invalid);
    assert!(ack.message.contains("1048577 bytes"), "{}", ack.message);

    let mut stranger = result_of(&second, success(""));
    stranger.saga_id = "s-99".to_owned();
    a.send(participate_request::Message::Result(stranger));
    assert_eq!(a.ack().await.status(), ResultStatus::Invalid);
    let mut stranger = result_of(&second, success(""));
    stranger.step = "nine".to_owned();
    a.send(participate_request::Message::Result(stranger));
    assert_eq!(a.ack().await.status(), ResultStatus::Invalid);

    a.answer(&first, transient("LATE"));
    assert_eq!(a.ack().await.status(), ResultStatus::Superseded);
    a.answer(&second, success("x"));
    assert_eq!(a.ack().await.status(), ResultStatus::Accepted);
    a.answer(&second, success("x"));
    assert_eq!(a.ack().await.status(), ResultStatus::Duplicate);
    let saga = system.get("s-1").await;
    assert_eq!(state_of(&saga, "one").output, Some(text("x")));
}

#[tokio::test]
async fn a_participant_that_reconnects_finishes_its_attempt() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = with_one_step(dir.path()).await;
    let mut a = system.link("a", "a1", ACTIONS, 1).await;
    system.start_saga("order", "s-1").await;
    let command = a.command().await;
    drop(a);
    let mut back = hello("a", "a1", ACTIONS, 1);
    back.attempts_in_progress = vec![command.lease_token];
    let mut a = system.link_with(back).await.expect("welcome");
    a.answer(&command, success("done meanwhile"));
    assert_eq!(a.ack().await.status(), ResultStatus::Accepted);
    let saga = system.ended("s-1").await;
    assert_eq!(
        (saga.state(), state_of(&saga, "one").attempts),
        (SagaState::Completed, 1)
    );
}

#[tokio::test]
async fn a_newer_stream_of_an_instance_replaces_the_older() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = with_one_step(dir.path()).await;
    let mut old = system.link("a", "a1", ACTIONS, 5).await;
    let mut new = system.link("a", "a1", ACTIONS, 5).await;
    let ended = old.end().await;
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (tonic::Code::Aborted, "STREAM_REPLACED")
    );
    system.start_saga("order", "s-1").await;
    assert_eq!(new.command().await.saga_id, "s-1");
}

#[tokio::test]
async fn a_draining_participant_gets_nothing_more_and_may_finish() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = with_one_step(dir.path()).await;
    let mut a = system.link("a", "a1", ACTIONS, 5).await;
    system.start_saga("order", "s-1").await;
    let command = a.command().await;
    a.send(participate_request::Message::Drain(Drain {
        grace: millis(1_000),
    }));
    a.answer(&command, success(""));
    assert_eq!(a.ack().await.status(), ResultStatus::Accepted);
    system.start_saga("order", "s-2").await;
    let mut other = system.link("a", "a2", ACTIONS, 5).await;
    assert_eq!(other.command().await.saga_id, "s-2");
}

#[tokio::test]
async fn a_stopping_coordinator_says_drain_and_takes_what_is_under_way() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = with_one_step(dir.path()).await;
    let mut a = system.link("a", "a1", ACTIONS, 5).await;
    system.start_saga("order", "s-1").await;
    let command = a.command().await;
    let stopping = tokio::spawn(system.stop());
    match soon("a drain", a.next()).await.expect("no error") {
        Some(participate_response::Message::Drain(drain)) => assert!(drain.grace.is_some()),
        other => panic!("not a drain: {other:?}"),
    }
    a.answer(&command, success(""));
    assert_eq!(a.ack().await.status(), ResultStatus::Accepted);
    assert_eq!(a.end().await.code(), tonic::Code::Ok);
    soon("the coordinator to stop", stopping)
        .await
        .expect("no panic");
    let system = System::start(dir.path()).await;
    assert_eq!(system.get("s-1").await.state(), SagaState::Completed);
}

#[tokio::test]
async fn a_silent_stream_is_given_up_and_its_work_goes_on_elsewhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = options();
    options.heartbeat_interval = std::time::Duration::from_millis(50);
    let system = System::start_with(dir.path(), options).await;
    system
        .define(definition(
            "order",
            vec![with_call(step("a", "one", &[]), |call| {
                call.timeout = millis(100)
            })],
        ))
        .await;
    let mut silent = system.link("a", "a1", ACTIONS, 1).await;
    system.start_saga("order", "s-1").await;
    silent.command().await;
    assert_eq!(reason(&silent.end().await), "STREAM_SILENT");
    let mut other = system.link("a", "a2", ACTIONS, 1).await;
    let second = other.command().await;
    assert_eq!(second.attempt, 2);
    system.until("s-1", |kind| matches!(kind, Kind::OutcomeUnknown(unknown) if unknown.cause() == UnknownCause::Timeout)).await;
}
