//! Sagas that are undone.

use sagamesh_api::saga::v1::*;
use transition::Kind;

use crate::support::*;

#[tokio::test]
async fn a_rejection_is_compensated_in_reverse() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let steps = vec![
        step("a", "one", &[]),
        step("a", "two", &["one"]),
        step("b", "three", &["two"]),
    ];
    system.define(definition("order", steps)).await;
    let mut a = system
        .link("a", "a1", &["one.do", "one.undo", "two.do", "two.undo"], 10)
        .await;
    let mut b = system
        .link("b", "b1", &["three.do", "three.undo"], 10)
        .await;
    system.start_saga("order", "s-1").await;
    for output in ["first", "second"] {
        let command = a.command().await;
        a.answer(&command, success(output));
    }
    let three = b.command().await;
    b.answer(&three, rejection("SOLD_OUT"));

    let undo = a.command().await;
    assert_eq!(
        (undo.step.as_str(), undo.direction(), undo.action.as_str()),
        ("two", Direction::Compensation, "two.undo")
    );
    assert_eq!(undo.action_output, Some(text("second")));
    assert_eq!(undo.input["saga.abort_reason"], text("SOLD_OUT"));
    assert_eq!(undo.not_after_time, None);
    a.answer(&undo, success(""));
    let undo = a.command().await;
    assert_eq!(
        (undo.step.as_str(), undo.action.as_str()),
        ("one", "one.undo")
    );
    a.answer(&undo, success(""));

    let saga = system.ended("s-1").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    let aborted = saga.aborted.clone().expect("a cause");
    assert_eq!(
        (aborted.cause(), aborted.step.as_str()),
        (AbortCause::Rejected, "three")
    );
    assert_eq!(state_of(&saga, "three").state(), StepState::Rejected);
    assert_eq!(state_of(&saga, "one").state(), StepState::Compensated);
}

#[tokio::test]
async fn a_timeout_is_unknown_and_the_step_is_compensated_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let silent = with_call(step("a", "one", &[]), |call| {
        call.timeout = millis(50);
        call.retry = quick(2);
    });
    system.define(definition("order", vec![silent])).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    system.start_saga("order", "s-1").await;
    let first = a.command().await;
    let second = a.command().await;
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_ne!(first.lease_token, second.lease_token);
    let undo = a.command().await;
    assert_eq!(undo.direction(), Direction::Compensation);
    a.answer(&undo, success(""));
    let saga = system.ended("s-1").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    assert_eq!(
        saga.aborted.expect("a cause").cause(),
        AbortCause::AttemptsExhausted
    );
    // The answer to the first attempt comes too late for everything.
    a.answer(&first, success("late"));
    assert!(
        matches!(a.ack().await.status(), ResultStatus::Accepted),
        "the ack of the compensation"
    );
    assert_ne!(a.ack().await.status(), ResultStatus::Accepted);
}

#[tokio::test]
async fn heartbeats_keep_an_attempt_alive_and_their_loss_ends_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let beating = with_call(step("a", "one", &[]), |call| {
        call.heartbeat_timeout = millis(300);
        call.retry = quick(1);
    });
    system.define(definition("order", vec![beating])).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    system.start_saga("order", "s-1").await;
    let command = a.command().await;
    assert_eq!(command.heartbeat_timeout, millis(300));
    let mut beats = tokio::time::interval(std::time::Duration::from_millis(50));
    for _ in 0..12 {
        beats.tick().await;
        a.send(participate_request::Message::Heartbeat(Heartbeat {
            lease_token: command.lease_token,
            details: String::new(),
        }));
    }
    assert_eq!(
        system.get("s-1").await.version,
        1,
        "alive for longer than the heartbeat timeout"
    );
    let undo = a.command().await;
    assert_eq!(undo.direction(), Direction::Compensation);
    let events = system.until("s-1", |kind| matches!(kind, Kind::OutcomeUnknown(unknown) if unknown.cause() == UnknownCause::HeartbeatLost)).await;
    assert_eq!(events.state(), SagaState::Compensating);
}

#[tokio::test]
async fn transient_failures_are_retried_with_backoff() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    system.start_saga("order", "s-1").await;
    for attempt in 1..=3 {
        let command = a.command().await;
        assert_eq!(command.attempt, attempt);
        a.answer(
            &command,
            if attempt < 3 {
                transient("BUSY")
            } else {
                success("")
            },
        );
    }
    let saga = system.ended("s-1").await;
    assert_eq!(
        (saga.state(), state_of(&saga, "one").attempts),
        (SagaState::Completed, 3)
    );
}

#[tokio::test]
async fn a_running_saga_is_cancelled_once_its_attempt_is_settled() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![step("a", "one", &[]), step("b", "two", &["one"])],
        ))
        .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    system.start_saga("order", "s-1").await;
    let command = a.command().await;
    let cancel = CancelSagaRequest {
        saga_id: "s-1".to_owned(),
        reason: "changed my mind".to_owned(),
    };
    let cancelled = system
        .sagas
        .clone()
        .cancel_saga(cancel.clone())
        .await
        .expect("cancelled")
        .into_inner()
        .saga
        .expect("a saga");
    assert_eq!(cancelled.state(), SagaState::Compensating);
    let again = system
        .sagas
        .clone()
        .cancel_saga(cancel.clone())
        .await
        .expect("again")
        .into_inner()
        .saga
        .expect("a saga");
    assert_eq!(
        again.version, cancelled.version,
        "cancelling twice changes nothing"
    );
    a.answer(&command, success("x"));
    let undo = a.command().await;
    assert_eq!(undo.direction(), Direction::Compensation);
    a.answer(&undo, success(""));
    let saga = system.ended("s-1").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    assert_eq!(state_of(&saga, "two").state(), StepState::NotStarted);
}

#[tokio::test]
async fn a_cancelled_saga_takes_waiting_commands_out_of_their_queue() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let saga = system.start_saga("order", "s-1").await;
    assert_eq!(saga.state(), SagaState::Running);
    assert_eq!(
        state_of(&system.get("s-1").await, "one").waits_on(),
        WaitsOn::Stream
    );
    let cancel = CancelSagaRequest {
        saga_id: "s-1".to_owned(),
        reason: String::new(),
    };
    system
        .sagas
        .clone()
        .cancel_saga(cancel)
        .await
        .expect("cancelled");
    let saga = system.ended("s-1").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    // It never went out, so there is nothing to undo and nothing to do.
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    system.start_saga("order", "s-2").await;
    assert_eq!(a.command().await.saga_id, "s-2");
}

#[tokio::test]
async fn after_the_pivot_nothing_is_cancelled() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let steps = vec![
        phase_step(Phase::Pivot, "a", "pay", &[]),
        phase_step(Phase::Retriable, "a", "finish", &["pay"]),
    ];
    let mut order = definition("order", steps);
    order.deadline = millis(60_000);
    system.define(order).await;
    let mut a = system.link("a", "a1", &["pay.do", "finish.do"], 10).await;
    system.start_saga("order", "s-1").await;
    let pay = a.command().await;
    let cancel = CancelSagaRequest {
        saga_id: "s-1".to_owned(),
        reason: String::new(),
    };
    let refused = system
        .sagas
        .clone()
        .cancel_saga(cancel.clone())
        .await
        .expect_err("past the pivot");
    assert_eq!(reason(&refused), "PIVOT_DISPATCHED");
    a.answer(&pay, success(""));
    let finish = a.command().await;
    a.answer(&finish, success(""));
    assert_eq!(system.ended("s-1").await.state(), SagaState::Completed);
    let refused = system
        .sagas
        .clone()
        .cancel_saga(cancel)
        .await
        .expect_err("it has ended");
    assert_eq!(reason(&refused), "SAGA_ENDED");
}

#[tokio::test]
async fn a_missed_deadline_undoes_the_saga() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![step("a", "one", &[]), step("b", "two", &["one"])],
        ))
        .await;
    system
        .worker("a", &["one.do", "one.undo"], |_| Some(success("")))
        .await;
    let mut request = start("order", "s-1");
    request.deadline = millis(300);
    system.try_start(request).await.expect("started");
    // Nobody does step two.
    let saga = system.ended("s-1").await;
    assert_eq!(
        (saga.state(), saga.aborted.expect("a cause").cause()),
        (SagaState::Compensated, AbortCause::Deadline)
    );
}
