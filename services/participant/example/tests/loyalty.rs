//! The service against a coordinator whose messages the test writes.

use std::path::Path;
use std::time::Duration;

use chassis::{Env, Tasks};
use participant::testing::{ScriptedCoordinator, ScriptedStream, command};
use participant::{Direction, Kind};
use participant_example::{Points, participant};
use sagamesh_api::saga::v1::{Command, result};

const CUSTOMER: &str = "customer-1";

struct Running {
    _coordinator: ScriptedCoordinator,
    stream: ScriptedStream,
    points: Points,
    tasks: Tasks,
}

async fn start(database: &Path) -> Running {
    let mut coordinator = ScriptedCoordinator::start().await;
    let points = Points::open(database).await.unwrap();
    let tasks = Tasks::new();
    participant(&points, &coordinator.url(), &Env::system())
        .run(&tasks)
        .unwrap();
    let stream = coordinator.welcome().await;
    Running {
        _coordinator: coordinator,
        stream,
        points,
        tasks,
    }
}

fn add(token: u64, saga: &str, points: &str) -> Command {
    let input = [("customer_id", CUSTOMER), ("points", points)];
    command(token, saga, "loyalty.AddPoints", Direction::Action, &input)
}

fn remove(token: u64, saga: &str, points: &str) -> Command {
    let input = [("customer_id", CUSTOMER), ("points", points)];
    command(
        token,
        saga,
        "loyalty.RemovePoints",
        Direction::Compensation,
        &input,
    )
}

/// An outcome in a word: its output or its reason.
fn word(outcome: result::Outcome) -> String {
    match outcome {
        result::Outcome::Success(success) => match success.output.and_then(|output| output.kind) {
            Some(Kind::Text(text)) => text,
            _ => "done".into(),
        },
        result::Outcome::Rejection(failure) => format!("rejected {}", failure.reason),
        result::Outcome::Transient(failure) => format!("transient {}", failure.reason),
        result::Outcome::Unknown(failure) => format!("unknown {}", failure.reason),
    }
}

#[tokio::test]
async fn points_are_given_once_and_taken_back_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("loyalty.db");
    let running = start(&database).await;
    let stream = &running.stream;
    assert_eq!(
        stream.hello.actions,
        ["loyalty.AddPoints", "loyalty.RemovePoints"]
    );
    assert_eq!(word(stream.run(add(1, "saga-1", "100")).await), "100");
    // The same again, as after a lost acknowledgement: the answer of then, and nothing is added.
    assert_eq!(word(stream.run(add(2, "saga-1", "100")).await), "100");
    assert_eq!(word(stream.run(add(3, "saga-2", "20")).await), "120");
    assert_eq!(running.points.balance(CUSTOMER).await.unwrap(), 120);
    running
        .tasks
        .shutdown(Duration::from_secs(5))
        .await
        .unwrap();

    // After a restart the barrier still knows.
    let running = start(&database).await;
    let stream = &running.stream;
    assert_eq!(word(stream.run(add(1, "saga-1", "100")).await), "100");
    assert_eq!(word(stream.run(remove(2, "saga-1", "100")).await), "20");
    assert_eq!(word(stream.run(remove(3, "saga-1", "100")).await), "20");
    assert_eq!(running.points.balance(CUSTOMER).await.unwrap(), 20);
    running
        .tasks
        .shutdown(Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_comes_in_the_wrong_order_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&folder.path().join("loyalty.db")).await;
    let stream = &running.stream;
    assert_eq!(word(stream.run(remove(1, "saga-1", "100")).await), "done");
    assert_eq!(
        word(stream.run(add(2, "saga-1", "100")).await),
        "rejected COMPENSATED_BEFORE"
    );
    assert_eq!(running.points.balance(CUSTOMER).await.unwrap(), 0);
    // Spent meanwhile: the compensation says no, and may be tried again once the customer has earned more.
    assert_eq!(word(stream.run(add(3, "saga-2", "50")).await), "50");
    assert_eq!(
        word(stream.run(remove(4, "saga-2", "60")).await),
        "rejected POINTS_SPENT"
    );
    assert_eq!(word(stream.run(add(5, "saga-3", "10")).await), "60");
    assert_eq!(word(stream.run(remove(6, "saga-2", "60")).await), "0");
    running
        .tasks
        .shutdown(Duration::from_secs(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn bad_input_is_rejected_with_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&folder.path().join("loyalty.db")).await;
    let stream = &running.stream;
    for (token, points, expected) in [
        (1, "0", "rejected POINTS_INVALID"),
        (2, "-5", "rejected POINTS_INVALID"),
        (3, "many", "rejected INPUT_INVALID"),
        (4, "99999999999999999999", "rejected INPUT_INVALID"),
    ] {
        assert_eq!(
            word(
                stream
                    .run(add(token, &format!("saga-{token}"), points))
                    .await
            ),
            expected
        );
    }
    let nothing = command(9, "saga-9", "loyalty.AddPoints", Direction::Action, &[]);
    let outcome = stream.run(nothing).await;
    let result::Outcome::Rejection(failure) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        failure.message.contains("`customer_id`"),
        "{}",
        failure.message
    );
    running
        .tasks
        .shutdown(Duration::from_secs(5))
        .await
        .unwrap();
}
