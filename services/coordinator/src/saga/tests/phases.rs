//! Every command in every phase that a saga can be in.

use sagamesh_api::saga::v1::{
    OperatorAction, SagaEvent, SagaState as Stands, Transition, transition::Kind as T,
};

use super::harness::*;
use crate::saga::time::timestamp;
use crate::saga::{Command, Fault, Refusal, SagaState, decide, evolve};

/// A saga in each phase, by name.
fn worlds() -> Vec<(&'static str, World)> {
    let steps = || {
        plan(vec![
            call("a", Compensatable, &[]),
            signal("w", ReadOnly, &["a"], "go", None),
            call("p", Pivot, &["w"]),
            call("r", Retriable, &["p"]),
        ])
    };
    let new = World::new(&steps());
    let running = World::started(&steps());
    let mut waiting = running.clone();
    waiting.succeed("a");
    let mut compensating = waiting.clone();
    compensating.ok(cancel());
    let mut undo_parked = compensating.clone();
    undo_parked.reject("a", Compensation);
    let mut compensated = compensating.clone();
    compensated.undo("a");
    let mut leftovers = undo_parked.clone();
    leftovers.ok(leftovers.operate("a", OperatorAction::Skip));
    let mut committed = waiting.clone();
    committed.ok(send_signal("go", "1"));
    let mut retriable = committed.clone();
    retriable.succeed("p");
    let mut parked = retriable.clone();
    parked.reject("r", Action);
    let mut completed = retriable.clone();
    completed.succeed("r");
    vec![
        ("new", new),
        ("running", running),
        ("waiting", waiting),
        ("compensating", compensating),
        ("undo parked", undo_parked),
        ("compensated", compensated),
        ("leftovers", leftovers),
        ("committed", committed),
        ("retriable", retriable),
        ("parked", parked),
        ("completed", completed),
    ]
}

fn answer(world: &World, command: &Command) -> String {
    let mut world = world.clone();
    world.now += 1_000_000;
    match world.act(command.clone()) {
        Ok(record) if record.is_empty() => "-".into(),
        Ok(record) => show(&record[0]),
        Err(refusal) => refusal.reason().into(),
    }
}

fn table(name: &str, command: impl Fn(&World) -> Command, expected: [&str; 11]) {
    for ((phase, world), expected) in worlds().into_iter().zip(expected) {
        assert_eq!(
            answer(&world, &command(&world)),
            expected,
            "{name} on a saga that is {phase}"
        );
    }
}

const NONE: &str = "SAGA_NOT_FOUND";

#[test]
fn every_command_in_every_phase() {
    let plan_of = |world: &World| Command::Start(Box::new(start(&world.plan)));
    table(
        "start",
        plan_of,
        ["started", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"],
    );
    table(
        "cancel",
        |_| cancel(),
        [
            NONE,
            "cancel",
            "cancel",
            "-",
            "-",
            "-",
            "-",
            "PIVOT_DISPATCHED",
            "PIVOT_DISPATCHED",
            "PIVOT_DISPATCHED",
            "SAGA_ENDED",
        ],
    );
    table(
        "signal",
        |_| send_signal("go", "2"),
        [
            NONE,
            "signal go",
            "signal go",
            "SAGA_COMPENSATING",
            "SAGA_COMPENSATING",
            "SAGA_ENDED",
            "SAGA_ENDED",
            "signal go",
            "signal go",
            "signal go",
            "SAGA_ENDED",
        ],
    );
    table(
        "deadline",
        |_| Command::DeadlineReached,
        [NONE, "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"],
    );
    let stale = "ATTEMPT_SUPERSEDED";
    table(
        "a success of a",
        |world| world.result("a", Action, success("x")),
        [NONE, "a done", "-", "-", "-", "-", "-", "-", "-", "-", "-"],
    );
    table(
        "an undoing of a",
        |world| world.result("a", Compensation, success("x")),
        [
            NONE,
            stale,
            stale,
            "undo a done",
            "-",
            "-",
            "-",
            stale,
            stale,
            stale,
            stale,
        ],
    );
    table(
        "a rejection of r",
        |world| world.result("r", Action, rejection("NO")),
        [
            NONE,
            stale,
            stale,
            stale,
            stale,
            stale,
            stale,
            stale,
            "r rejected",
            "-",
            "-",
        ],
    );
    table(
        "an unknown token",
        |world| world.result_with("a", Action, 1, success("x")),
        [
            NONE, stale, stale, stale, stale, stale, stale, stale, stale, stale, stale,
        ],
    );
    table(
        "a timeout of a",
        |world| world.timeout_of("a", Action),
        [
            NONE,
            "a unknown",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
        ],
    );
    table(
        "a timeout of undoing a",
        |world| world.timeout_of("a", Compensation),
        [
            NONE,
            "-",
            "-",
            "undo a unknown",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
        ],
    );
    let never = |world: &World| Command::NeverSent {
        step: 3,
        direction: Action,
        token: world.token("r", Action),
    };
    table(
        "r was never sent",
        never,
        [
            NONE, "-", "-", "-", "-", "-", "-", "-", "r failed", "-", "-",
        ],
    );
    for (name, command) in [
        (
            "a retry",
            Command::RetryDue {
                step: 0,
                direction: Action,
            },
        ),
        (
            "a retry of undoing",
            Command::RetryDue {
                step: 0,
                direction: Compensation,
            },
        ),
        ("a delay", Command::DelayDue { step: 1 }),
        ("a signal's timeout", Command::SignalTimeout { step: 1 }),
    ] {
        table(
            name,
            |_| command.clone(),
            [NONE, "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"],
        );
    }
    table(
        "a stall check of p",
        |_| Command::StallCheck { step: 2 },
        [
            NONE,
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "p stalled",
            "-",
            "-",
            "-",
        ],
    );
    table(
        "a stall check of r",
        |_| Command::StallCheck { step: 3 },
        [
            NONE,
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "r stalled",
            "-",
            "-",
        ],
    );
    let cannot = "STEP_NOT_RESOLVABLE";
    table(
        "an operator's retry of all",
        |world| world.operate("", OperatorAction::Retry),
        [
            NONE,
            cannot,
            cannot,
            cannot,
            "undo a RETRY",
            "SAGA_ENDED",
            "SAGA_ENDED",
            cannot,
            cannot,
            "r RETRY",
            "SAGA_ENDED",
        ],
    );
    table(
        "an operator's skip of r",
        |world| world.operate("r", OperatorAction::Skip),
        [
            NONE,
            cannot,
            cannot,
            cannot,
            cannot,
            "SAGA_ENDED",
            "SAGA_ENDED",
            cannot,
            cannot,
            "r SKIP",
            "SAGA_ENDED",
        ],
    );
}

#[test]
fn where_each_stands() {
    let stands: Vec<Stands> = worlds().iter().map(|(_, world)| world.saga()).collect();
    assert_eq!(
        stands,
        [
            Stands::Unspecified,
            Stands::Running,
            Stands::Running,
            Stands::Compensating,
            Stands::Parked,
            Stands::Compensated,
            Stands::CompensatedWithLeftovers,
            Stands::Running,
            Stands::Running,
            Stands::Parked,
            Stands::Completed,
        ]
    );
}

/// A history that does not fit is noticed, and nothing more is decided on it.
#[test]
fn a_corrupt_history_is_refused() {
    for (phase, world) in worlds().into_iter().skip(1) {
        let start = world.events[0].transitions[0].clone();
        for kinds in [
            vec![start],
            vec![Transition {
                kind: Some(T::DelayStarted(sagamesh_api::saga::v1::DelayStarted {
                    step: "a".into(),
                    due_time: None,
                })),
            }],
        ] {
            let mut state = world.state.clone();
            let event = SagaEvent {
                version: 0,
                event_time: Some(timestamp(NOW)),
                transitions: kinds,
            };
            assert!(evolve(&mut state, &event, &world.plan).is_err(), "{phase}");
            assert!(state.fault().is_some());
            assert!(matches!(
                decide(&state, &cancel(), NOW, 1),
                Err(Refusal::Corrupt(_))
            ));
        }
    }
    let world = World::started(&diamond());
    let mut state = SagaState::new();
    let fault = evolve(&mut state, &world.events[0], &chain()).expect_err("another plan");
    assert!(matches!(fault, Fault::NoPlan { .. }));
}
