//! What holds commands back: credits, pauses, breakers, limits.

use sagamesh_api::saga::v1::*;

use crate::support::*;

async fn system_with_one_step(
    dir: &std::path::Path,
    change: impl FnOnce(&mut coordinator::Options),
) -> System {
    let mut options = options();
    change(&mut options);
    let system = System::start_with(dir, options).await;
    system
        .define(definition(
            "order",
            vec![with_call(step("a", "one", &[]), |call| {
                call.retry = quick(100)
            })],
        ))
        .await;
    system
}

/// No command is on its way: whatever the coordinator wrote to the stream before the ack of this garbage has come before it.
async fn assert_no_command(link: &mut Link) {
    link.send(participate_request::Message::Result(Result_ {
        lease_token: 1,
        saga_id: "none".to_owned(),
        ..Result_::default()
    }));
    match soon("an answer", link.next()).await.expect("no error") {
        Some(participate_response::Message::ResultAck(ack)) => {
            assert_eq!((ack.lease_token, ack.status()), (1, ResultStatus::Invalid))
        }
        other => panic!("not an ack: {other:?}"),
    }
}

async fn waits_on(system: &System, id: &str) -> WaitsOn {
    state_of(&system.get(id).await, "one").waits_on()
}

#[tokio::test]
async fn credits_are_never_exceeded() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = system_with_one_step(dir.path(), |_| {}).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 2).await;
    for number in 1..=5 {
        system.start_saga("order", &format!("s-{number}")).await;
    }
    let first = a.command().await;
    let second = a.command().await;
    assert_eq!(
        (first.saga_id.as_str(), second.saga_id.as_str()),
        ("s-1", "s-2"),
        "first in, first out"
    );
    assert_no_command(&mut a).await;
    assert_eq!(waits_on(&system, "s-3").await, WaitsOn::Credit);
    // A result gives no credit by itself.
    a.answer(&first, success(""));
    assert_eq!(a.ack().await.status(), ResultStatus::Accepted);
    assert_no_command(&mut a).await;
    a.credit(2);
    assert_eq!(a.command().await.saga_id, "s-3");
    assert_eq!(a.command().await.saga_id, "s-4");
    assert_no_command(&mut a).await;
}

#[tokio::test]
async fn instances_take_turns() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = system_with_one_step(dir.path(), |_| {}).await;
    let mut first = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    let mut second = system.link("a", "a2", &["one.do", "one.undo"], 10).await;
    for number in 1..=4 {
        system.start_saga("order", &format!("s-{number}")).await;
    }
    for link in [&mut first, &mut second] {
        link.command().await;
        link.command().await;
        assert_no_command(link).await;
    }
}

#[tokio::test]
async fn compensations_go_before_new_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![step("a", "one", &[]), step("b", "two", &["one"])],
        ))
        .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 1).await;
    let mut b = system.link("b", "b1", &["two.do", "two.undo"], 10).await;
    system.start_saga("order", "s-1").await;
    let one = a.command().await;
    for number in 2..=4 {
        system.start_saga("order", &format!("s-{number}")).await;
    }
    a.answer(&one, success(""));
    let two = b.command().await;
    b.answer(&two, rejection("NO"));
    assert_eq!(b.ack().await.status(), ResultStatus::Accepted);
    a.credit(1);
    let next = a.command().await;
    assert_eq!(
        (next.saga_id.as_str(), next.direction()),
        ("s-1", Direction::Compensation)
    );
}

#[tokio::test]
async fn a_paused_participant_gets_nothing_until_it_is_resumed() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = system_with_one_step(dir.path(), |_| {}).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    let mut operators = system.operators.clone();
    let pause = PauseParticipantRequest {
        name: "a".to_owned(),
        operator: "ann".to_owned(),
        reason: "maintenance".to_owned(),
    };
    operators
        .pause_participant(pause.clone())
        .await
        .expect("paused");
    system.start_saga("order", "s-1").await;
    assert_no_command(&mut a).await;
    assert_eq!(waits_on(&system, "s-1").await, WaitsOn::Pause);
    let listed = operators
        .list_participants(ListParticipantsRequest {})
        .await
        .expect("a list")
        .into_inner()
        .participants;
    assert_eq!(
        listed
            .iter()
            .map(|one| (one.name.as_str(), one.paused, one.queued))
            .collect::<Vec<_>>(),
        [("a", true, 1), ("b", false, 0), ("c", false, 0)]
    );
    operators
        .resume_participant(ResumeParticipantRequest {
            name: "a".to_owned(),
            operator: "ann".to_owned(),
        })
        .await
        .expect("resumed");
    assert_eq!(a.command().await.saga_id, "s-1");
    let unknown = operators
        .pause_participant(PauseParticipantRequest {
            name: "nobody".to_owned(),
            ..pause
        })
        .await
        .expect_err("unknown");
    assert_eq!(reason(&unknown), "PARTICIPANT_NOT_FOUND");
}

#[tokio::test]
async fn the_concurrency_limit_holds_over_all_instances() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = system_with_one_step(dir.path(), |_| {}).await;
    let put = PutParticipantRequest {
        name: "a".to_owned(),
        max_concurrency: 2,
    };
    let participant = system
        .operators
        .clone()
        .put_participant(put)
        .await
        .expect("put")
        .into_inner()
        .participant
        .expect("a participant");
    assert_eq!(participant.max_concurrency, 2);
    let mut first = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    let mut second = system.link("a", "a2", &["one.do", "one.undo"], 10).await;
    for number in 1..=3 {
        system.start_saga("order", &format!("s-{number}")).await;
    }
    let one = first.command().await;
    second.command().await;
    assert_no_command(&mut first).await;
    assert_no_command(&mut second).await;
    assert_eq!(waits_on(&system, "s-3").await, WaitsOn::Concurrency);
    first.answer(&one, success(""));
    assert_eq!(first.command().await.saga_id, "s-3");
}

#[tokio::test]
async fn the_breaker_opens_after_five_failures_and_lets_one_probe_through() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = system_with_one_step(dir.path(), |options| {
        options.breaker_recovery = std::time::Duration::from_millis(400)
    })
    .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 100).await;
    system.start_saga("order", "s-1").await;
    for _ in 0..5 {
        let command = a.command().await;
        a.answer(&command, transient("DOWN"));
    }
    system.start_saga("order", "s-2").await;
    assert_eq!(waits_on(&system, "s-2").await, WaitsOn::Breaker);
    let listed = system
        .operators
        .clone()
        .list_participants(ListParticipantsRequest {})
        .await
        .expect("a list")
        .into_inner()
        .participants;
    assert_eq!(
        (
            listed[0].breakers[0].action.as_str(),
            listed[0].breakers[0].state()
        ),
        ("one.do", BreakerState::Open)
    );
    // One probe after the recovery time, and only one.
    let probe = a.command().await;
    system.start_saga("order", "s-3").await;
    assert_no_command_but_acks(&mut a).await;
    a.answer(&probe, success(""));
    let mut rest = vec![a.command().await.saga_id, a.command().await.saga_id];
    rest.sort();
    let mut wanted: Vec<String> = ["s-1", "s-2", "s-3"]
        .map(str::to_owned)
        .into_iter()
        .filter(|id| *id != probe.saga_id)
        .collect();
    wanted.sort();
    assert_eq!(rest, wanted);
}

async fn assert_no_command_but_acks(link: &mut Link) {
    link.send(participate_request::Message::Result(Result_ {
        lease_token: 1,
        saga_id: "none".to_owned(),
        ..Result_::default()
    }));
    loop {
        match soon("an answer", link.next()).await.expect("no error") {
            Some(participate_response::Message::ResultAck(ack)) if ack.lease_token == 1 => return,
            Some(participate_response::Message::ResultAck(_)) => {}
            other => panic!("not an ack: {other:?}"),
        }
    }
}

#[tokio::test]
async fn too_many_active_sagas_are_refused_with_a_hint_when_to_come_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = system_with_one_step(dir.path(), |options| options.max_active_sagas = 2).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 1).await;
    system.start_saga("order", "s-0").await;
    let command = a.command().await;
    a.answer(&command, success(""));
    system.ended("s-0").await;
    system.start_saga("order", "s-1").await;
    system.start_saga("order", "s-2").await;
    let refused = system
        .try_start(start("order", "s-3"))
        .await
        .expect_err("full");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::ResourceExhausted, "OVERLOADED")
    );
    assert!(chassis::problem::retry_after(&refused).is_some());
    // Under load nothing is looked up on the disk: the saga that has ended is told about later.
    let later = system
        .try_start(start("order", "s-0"))
        .await
        .expect_err("full");
    assert_eq!(reason(&later), "OVERLOADED");
    // What is under way already is answered all the same.
    assert!(
        !system
            .try_start(start("order", "s-1"))
            .await
            .expect("the same")
            .created
    );
}

#[tokio::test]
async fn what_active_sagas_keep_in_memory_is_bounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = system_with_one_step(dir.path(), |options| options.max_active_bytes = 1_000).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    let large = |id: &str| {
        let mut request = start("order", id);
        request
            .input
            .insert("note".to_owned(), text(&"x".repeat(600)));
        request
    };
    system.try_start(large("s-0")).await.expect("started");
    let refused = system.try_start(large("s-1")).await.expect_err("full");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::ResourceExhausted, "OVERLOADED")
    );
    // What is small still fits.
    system.start_saga("order", "s-2").await;
    for output in ["", "y"] {
        let command = a.command().await;
        a.answer(&command, success(output));
    }
    for id in ["s-0", "s-2"] {
        system.ended(id).await;
    }
    system.try_start(large("s-1")).await.expect("started");
}
