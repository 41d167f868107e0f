//! Delay and signal steps.

use sagamesh_api::saga::v1::*;
use transition::Kind;

use crate::support::*;

fn waiting(name: &str, kind: step::Kind, after: &[&str]) -> Step {
    Step {
        name: name.to_owned(),
        phase: Phase::ReadOnly.into(),
        after: after.iter().map(|after| (*after).to_owned()).collect(),
        kind: Some(kind),
    }
}

fn delay(duration: i64) -> step::Kind {
    step::Kind::Delay(Delay {
        duration: millis(duration),
    })
}

fn signal(name: &str, timeout: Option<i64>) -> step::Kind {
    step::Kind::Signal(Signal {
        name: name.to_owned(),
        timeout: timeout.and_then(millis),
    })
}

fn send(id: &str, name: &str, signal_id: &str) -> SignalSagaRequest {
    SignalSagaRequest {
        saga_id: id.to_owned(),
        name: name.to_owned(),
        signal_id: signal_id.to_owned(),
        payload: Some(text(signal_id)),
    }
}

#[tokio::test]
async fn a_delay_waits_and_a_signal_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let steps = vec![
        waiting("pause", delay(120), &[]),
        waiting("approval", signal("approved", None), &["pause"]),
        step("a", "one", &["approval"]),
    ];
    system.define(definition("order", steps)).await;
    system
        .worker("a", &["one.do", "one.undo"], |_| Some(success("")))
        .await;
    let saga = system.start_saga("order", "s-1").await;
    assert_eq!(
        (
            state_of(&saga, "pause").state(),
            state_of(&saga, "pause").waits_on()
        ),
        (StepState::Waiting, WaitsOn::Timer)
    );
    let saga = system
        .until("s-1", |kind| matches!(kind, Kind::SignalAwaited(_)))
        .await;
    assert_eq!(state_of(&saga, "approval").waits_on(), WaitsOn::Signal);
    let mut client = system.sagas.clone();
    let unknown = client
        .signal_saga(send("s-1", "other", "x"))
        .await
        .expect_err("nobody waits for it");
    assert_eq!(reason(&unknown), "SIGNAL_UNKNOWN");
    assert!(
        client
            .signal_saga(send("s-1", "approved", "by-ann"))
            .await
            .expect("taken")
            .into_inner()
            .accepted
    );
    let saga = system.ended("s-1").await;
    assert_eq!(
        (saga.state(), state_of(&saga, "approval").output.clone()),
        (SagaState::Completed, Some(text("by-ann")))
    );
    let waited = saga.end_time.expect("ended").nanos / 1_000_000
        + i32::try_from(
            saga.end_time.expect("ended").seconds - saga.start_time.expect("started").seconds,
        )
        .expect("small")
            * 1_000
        - saga.start_time.expect("started").nanos / 1_000_000;
    assert!(waited >= 120, "{waited} ms");
}

#[tokio::test]
async fn an_early_signal_is_kept_and_a_repeated_one_counts_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let steps = vec![
        step("a", "one", &[]),
        waiting("approval", signal("approved", None), &["one"]),
    ];
    system.define(definition("order", steps)).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 1).await;
    system.start_saga("order", "s-1").await;
    let mut client = system.sagas.clone();
    assert!(
        client
            .signal_saga(send("s-1", "approved", "1"))
            .await
            .expect("kept")
            .into_inner()
            .accepted
    );
    assert!(
        !client
            .signal_saga(send("s-1", "approved", "1"))
            .await
            .expect("known")
            .into_inner()
            .accepted
    );
    let command = a.command().await;
    a.answer(&command, success(""));
    assert_eq!(system.ended("s-1").await.state(), SagaState::Completed);
    let missing = client
        .signal_saga(send("s-9", "approved", "1"))
        .await
        .expect_err("no such saga");
    assert_eq!(
        (missing.code(), reason(&missing).as_str()),
        (tonic::Code::NotFound, "SAGA_NOT_FOUND")
    );
}

#[tokio::test]
async fn a_signal_that_does_not_come_undoes_the_saga() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![waiting("approval", signal("approved", Some(50)), &[])],
        ))
        .await;
    system.start_saga("order", "s-1").await;
    let saga = system.ended("s-1").await;
    assert_eq!(
        (saga.state(), saga.aborted.expect("a cause").cause()),
        (SagaState::Compensated, AbortCause::SignalTimeout)
    );
}

#[tokio::test]
async fn waits_survive_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition(
            "order",
            vec![
                waiting("pause", delay(400), &[]),
                waiting("approval", signal("approved", None), &[]),
            ],
        ))
        .await;
    system.start_saga("order", "s-1").await;
    assert!(
        system
            .sagas
            .clone()
            .signal_saga(send("s-1", "approved", "1"))
            .await
            .expect("taken")
            .into_inner()
            .accepted
    );
    system.kill().await;
    let system = System::start(dir.path()).await;
    assert_eq!(system.ended("s-1").await.state(), SagaState::Completed);
}
