//! Sagas that go forward.

use sagamesh_api::saga::v1::*;

use crate::support::*;

#[tokio::test]
async fn two_steps_run_at_the_same_time_and_the_saga_completes() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let steps = vec![
        step("a", "first", &[]),
        step("b", "left", &["first"]),
        with_call(step("c", "right", &["first"]), |call| {
            call.outputs_of = vec!["first".to_owned()]
        }),
        phase_step(Phase::Pivot, "a", "pay", &["left", "right"]),
        phase_step(Phase::Retriable, "b", "finish", &["pay"]),
    ];
    system.define(definition("order", steps)).await;
    let mut a = system
        .link("a", "a1", &["first.do", "first.undo", "pay.do"], 10)
        .await;
    let mut b = system
        .link("b", "b1", &["left.do", "left.undo", "finish.do"], 10)
        .await;
    let mut c = system
        .link("c", "c1", &["right.do", "right.undo"], 10)
        .await;

    let saga = system.start_saga("order", "s-1").await;
    assert_eq!((saga.state(), saga.version), (SagaState::Running, 1));
    let first = a.command().await;
    assert_eq!(
        (
            first.step.as_str(),
            first.action.as_str(),
            first.attempt,
            first.direction()
        ),
        ("first", "first.do", 1, Direction::Action)
    );
    assert_eq!(first.input["order"], text("tea"));
    a.answer(&first, success("out-1"));
    assert_eq!(a.ack().await.status(), ResultStatus::Accepted);

    // Both are under way before either is answered.
    let left = b.command().await;
    let right = c.command().await;
    assert_eq!(right.outputs["first"], text("out-1"));
    let both = system.get("s-1").await;
    assert_eq!(state_of(&both, "left").waits_on(), WaitsOn::Result);
    assert_eq!(state_of(&both, "right").waits_on(), WaitsOn::Result);
    b.answer(&left, success(""));
    c.answer(&right, success(""));

    let pay = a.command().await;
    assert!(system.get("s-1").await.pivot_dispatched);
    a.answer(&pay, success("receipt"));
    let finish = b.command().await;
    b.answer(&finish, success(""));

    let events = system.watch("s-1", 0).await.all().await;
    assert_eq!(
        events.iter().map(|event| event.version).collect::<Vec<_>>(),
        (1..=events.len() as u64).collect::<Vec<_>>()
    );
    let saga = system.get("s-1").await;
    assert_eq!(
        (saga.state(), saga.version),
        (SagaState::Completed, events.len() as u64)
    );
    assert_eq!(state_of(&saga, "pay").output, Some(text("receipt")));
    assert!(saga.end_time.is_some());
    system.stop().await;
}

#[tokio::test]
async fn a_start_can_wait_for_the_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![step("a", "one", &[]), step("b", "two", &["one"])],
        ))
        .await;
    system
        .worker("a", &["one.do", "one.undo"], |_| Some(success("x")))
        .await;
    system
        .worker("b", &["two.do", "two.undo"], |_| Some(success("y")))
        .await;
    let mut request = start("order", "s-1");
    request.wait = millis(10_000);
    let response = system.try_start(request.clone()).await.expect("started");
    let saga = response.saga.expect("a saga");
    assert!(response.created);
    assert_eq!((saga.state(), saga.version), (SagaState::Completed, 3));
    assert_eq!(state_of(&saga, "two").output, Some(text("y")));

    let again = system.try_start(request).await.expect("the same again");
    assert!(!again.created);
    assert_eq!(again.saga.expect("a saga"), saga);
}
