//! The point of no return.

use sagamesh_api::saga::v1::{OperatorAction, SagaState};

use super::harness::*;
use crate::saga::{Command, Effect, Refusal, Start, StepPhase, Timer, build_command, outstanding};

fn at_the_pivot() -> World {
    let mut world = World::started(&diamond());
    world.succeed("a");
    world.succeed("b");
    world
}

const STALL: i64 = 300_000;

fn stall(step: u8) -> Command {
    Command::StallCheck { step }
}

#[test]
fn from_its_dispatch_on_the_saga_cannot_be_cancelled() {
    let mut world = World::started(&diamond());
    world.succeed("a");
    assert!(!world.state.pivot_dispatched());
    world.succeed("b");
    assert!(world.state.pivot_dispatched());
    assert_eq!(world.refused(cancel()), Refusal::PivotDispatched);
    world.succeed("p");
    assert_eq!(world.refused(cancel()), Refusal::PivotDispatched);
}

#[test]
fn after_its_dispatch_a_deadline_is_an_alarm() {
    let mut world = World::started_with(Start {
        deadline_millis: Some(60_000),
        ..start(&diamond())
    });
    world.succeed("a");
    world.succeed("b");
    world.now += 60_000;
    assert_eq!(world.ok(Command::DeadlineReached), ["deadline missed"]);
    world.nothing(Command::DeadlineReached);
    let command = build_command("saga", &world.state, 2, Action, world.now).expect("a command");
    assert_eq!(
        command.not_after_time,
        Some(crate::saga::time::timestamp(world.now + 10_000))
    );
    world.finish();
    assert_eq!(world.saga(), SagaState::Completed);
}

#[test]
fn it_is_not_dispatched_with_less_than_one_timeout_left() {
    let start_with = |deadline| {
        let mut world = World::started_with(Start {
            deadline_millis: Some(deadline),
            ..start(&diamond())
        });
        world.succeed("a");
        world
    };
    let mut world = start_with(60_000);
    world.now += 50_000;
    assert_eq!(
        world.succeed("b"),
        ["b done", "p 1"],
        "exactly one is enough"
    );
    let mut world = start_with(60_000);
    world.now += 50_001;
    assert_eq!(
        world.succeed("b"),
        ["b done", "aborted DEADLINE p", "undo a 1", "undo b 1"]
    );
    assert!(!world.state.pivot_dispatched());
    world.finish();
    assert_eq!(world.saga(), SagaState::Compensated);
}

#[test]
fn unknown_outcomes_are_retried_without_limit_until_patience_is_over() {
    let mut world = at_the_pivot();
    for attempt in 2..12 {
        assert_eq!(world.time_out("p", Action), ["p unknown", "p backs off"]);
        if attempt == 11 {
            break;
        }
        assert_eq!(world.wait("p"), [format!("p {attempt}")]);
    }
    assert_eq!(
        world.refused(stall(2)),
        Refusal::TooEarly { due: NOW + STALL }
    );
    world.now = NOW + STALL;
    assert_eq!(world.ok(stall(2)), ["p parked PIVOT_UNKNOWN"]);
    assert_eq!(world.saga(), SagaState::Parked);
    world.nothing(stall(2));
    // The answer comes after all.
    assert_eq!(world.succeed("p"), ["p done", "r 1", "s 1"]);
}

#[test]
fn an_attempt_under_way_when_patience_ends_may_still_answer() {
    let mut world = at_the_pivot();
    world.now += STALL;
    assert_eq!(world.ok(stall(2)), ["p stalled"]);
    assert_eq!(world.state.attention(), ["p"]);
    assert_eq!(world.clone().succeed("p"), ["p done", "r 1", "s 1"]);
    assert_eq!(
        world.time_out("p", Action),
        ["p unknown", "p parked PIVOT_UNKNOWN"]
    );
    // Even without the check, an attempt that ends after it is the last one.
    let mut world = at_the_pivot();
    world.now += STALL;
    assert_eq!(
        world.time_out("p", Action),
        ["p unknown", "p parked PIVOT_UNKNOWN"]
    );
}

#[test]
fn only_a_definite_no_of_every_attempt_reopens_the_abort() {
    let mut world = at_the_pivot();
    world.fail("p", Action);
    world.wait("p");
    assert_eq!(
        world.reject("p", Action),
        ["p rejected", "aborted REJECTED p", "undo a 1", "undo b 1"]
    );

    let mut world = at_the_pivot();
    world.time_out("p", Action);
    world.wait("p");
    assert_eq!(
        world.reject("p", Action),
        ["p rejected", "p parked PIVOT_UNKNOWN"]
    );
    assert_eq!(world.refused(cancel()), Refusal::PivotDispatched);

    // A late rejection of the only unknown attempt settles it, also when it is parked.
    let mut world = at_the_pivot();
    world.now += STALL;
    world.time_out("p", Action);
    assert_eq!(world.phase("p"), StepPhase::Parked);
    assert_eq!(
        world.reject("p", Action),
        ["p rejected", "aborted REJECTED p", "undo a 1", "undo b 1"]
    );
}

#[test]
fn operators_resolve_it() {
    let parked = || {
        let mut world = at_the_pivot();
        world.now += STALL;
        world.time_out("p", Action);
        world
    };
    let mut world = parked();
    assert_eq!(
        world.ok(world.operate("p", OperatorAction::ResolveSucceeded)),
        ["p RESOLVE_SUCCEEDED", "r 1", "s 1"]
    );
    assert_eq!(world.state.output(2), Some(&text("seen")));
    let mut world = parked();
    let record = world.ok(world.operate("p", OperatorAction::ResolveRejected));
    assert_eq!(
        record,
        [
            "p RESOLVE_REJECTED",
            "aborted OPERATOR p",
            "undo a 1",
            "undo b 1"
        ]
    );
    world.finish();
    assert_eq!(world.saga(), SagaState::Compensated);
    let mut world = parked();
    assert_eq!(
        world.ok(world.operate("p", OperatorAction::Retry)),
        ["p RETRY", "p 2"]
    );
    let fresh = Effect::Timer {
        at: world.now + STALL,
        timer: Timer::Stall { step: 2 },
    };
    assert!(
        outstanding(&world.state).contains(&fresh),
        "patience starts anew"
    );
    let mut world = parked();
    let skip = world.operate("p", OperatorAction::Skip);
    assert!(matches!(world.refused(skip), Refusal::NotResolvable { .. }));
}

#[test]
fn a_stalled_pivot_under_way_cannot_be_ruled_out() {
    let mut world = at_the_pivot();
    world.now += STALL;
    world.ok(stall(2));
    for action in [
        OperatorAction::ResolveRejected,
        OperatorAction::Retry,
        OperatorAction::Skip,
    ] {
        let command = world.operate("p", action);
        assert!(
            matches!(world.refused(command), Refusal::NotResolvable { .. }),
            "{action:?}"
        );
    }
    let late = world.result("p", Action, success("late"));
    world.ok(world.operate("p", OperatorAction::ResolveSucceeded));
    assert_eq!(world.ok(late), ["p superseded"]);
}

#[test]
fn steps_after_it_are_retried_without_limit_and_alarm() {
    let mut world = at_the_pivot();
    world.succeed("p");
    for attempt in 2..20 {
        world.fail("r", Action);
        assert_eq!(world.wait("r"), [format!("r {attempt}")]);
    }
    world.fail("r", Action);
    world.now = NOW + STALL;
    assert_eq!(world.ok(stall(3)), ["r stalled"]);
    world.nothing(stall(3));
    assert_eq!(world.saga(), SagaState::Running, "stalled is not parked");
    assert_eq!(world.state.attention(), ["r"]);
    assert_eq!(world.wait("r"), ["r 20"], "and is retried");
    world.succeed("r");
    assert!(world.state.attention().is_empty());
    assert_eq!(world.succeed("s"), ["s done", "ended COMPLETED"]);
}

#[test]
fn a_rejected_step_after_it_parks_and_the_others_go_on() {
    let mut world = at_the_pivot();
    world.succeed("p");
    assert_eq!(
        world.reject("r", Action),
        ["r rejected", "r parked RETRIABLE_REJECTED"]
    );
    assert_eq!(world.saga(), SagaState::Parked);
    assert_eq!(world.succeed("s"), ["s done"]);
    assert_eq!(
        world.ok(world.operate("r", OperatorAction::Retry)),
        ["r RETRY", "r 2"]
    );
    assert_eq!(world.succeed("r"), ["r done", "ended COMPLETED"]);
}
