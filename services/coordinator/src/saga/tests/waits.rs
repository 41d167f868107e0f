//! DELAY and SIGNAL steps.

use sagamesh_api::saga::v1::{OperatorAction, SagaState, WaitsOn};

use super::harness::*;
use crate::saga::{Command, Effect, Refusal, StepPhase, Timer, describe, outstanding};

#[test]
fn a_delay_waits_for_its_time() {
    let mut world = World::new(&plan(vec![
        delay("d", ReadOnly, &[], 5_000),
        call("a", Compensatable, &["d"]),
    ]));
    let first = start(&world.plan.clone());
    assert_eq!(
        world.ok(Command::Start(Box::new(first))),
        ["started", "d delays"]
    );
    assert_eq!(
        describe("saga", &world.state).steps[0].waits_on(),
        WaitsOn::Timer
    );
    assert_eq!(
        world.refused(Command::DelayDue { step: 0 }),
        Refusal::TooEarly { due: NOW + 5_000 }
    );
    assert_eq!(world.wait("d"), ["d done", "a 1"]);
    world.nothing(Command::DelayDue { step: 0 });
    world.nothing(Command::DelayDue { step: 1 });
}

#[test]
fn a_signal_is_awaited_and_becomes_the_steps_output() {
    let mut world = World::started(&plan(vec![
        signal("w", ReadOnly, &[], "go", None),
        call("a", Compensatable, &["w"]),
    ]));
    assert!(outstanding(&world.state).is_empty());
    assert_eq!(
        describe("saga", &world.state).steps[0].waits_on(),
        WaitsOn::Signal
    );
    assert_eq!(
        world.refused(send_signal("other", "1")),
        Refusal::UnknownSignal("other".into())
    );
    assert_eq!(
        world.ok(send_signal("go", "1")),
        ["signal go", "w done", "a 1"]
    );
    assert_eq!(world.state.output(0), Some(&text("1")));
    world.nothing(send_signal("go", "1"));
    world.succeed("a");
    world.nothing(send_signal("go", "1"));
    assert_eq!(world.refused(send_signal("go", "2")), Refusal::Ended);
}

#[test]
fn an_early_signal_is_kept_and_counts_once() {
    let mut world = World::started(&plan(vec![
        call("a", Compensatable, &[]),
        signal("w", ReadOnly, &["a"], "go", Some(1_000)),
        signal("x", ReadOnly, &["w"], "go", None),
    ]));
    assert_eq!(world.ok(send_signal("go", "1")), ["signal go"]);
    world.nothing(send_signal("go", "1"));
    assert_eq!(
        world.succeed("a"),
        ["a done", "w awaits", "w done", "x awaits"]
    );
    assert_eq!(
        world.ok(send_signal("go", "2")),
        ["signal go", "x done", "ended COMPLETED"]
    );
    assert_eq!(
        (world.state.output(1), world.state.output(2)),
        (Some(&text("1")), Some(&text("2")))
    );
}

#[test]
fn two_steps_that_wait_for_one_name_take_one_signal_each() {
    let mut world = World::started(&plan(vec![
        signal("w", ReadOnly, &[], "go", None),
        signal("x", ReadOnly, &[], "go", None),
    ]));
    assert_eq!(world.ok(send_signal("go", "1")), ["signal go", "w done"]);
    assert_eq!(
        world.ok(send_signal("go", "2")),
        ["signal go", "x done", "ended COMPLETED"]
    );
}

#[test]
fn a_signal_that_does_not_come_aborts_before_the_pivot() {
    let mut world = World::started(&plan(vec![
        call("a", Compensatable, &[]),
        signal("w", ReadOnly, &["a"], "go", Some(1_000)),
    ]));
    world.succeed("a");
    let timer = Effect::Timer {
        at: NOW + 1_000,
        timer: Timer::Signal { step: 1 },
    };
    assert_eq!(outstanding(&world.state), [timer]);
    assert_eq!(
        world.refused(Command::SignalTimeout { step: 1 }),
        Refusal::TooEarly { due: NOW + 1_000 }
    );
    assert_eq!(world.wait("w"), ["aborted SIGNAL_TIMEOUT w", "undo a 1"]);
    assert_eq!(world.phase("w"), StepPhase::NotStarted);
    assert_eq!(world.refused(send_signal("go", "1")), Refusal::Aborting);
    world.finish();
    assert_eq!(world.saga(), SagaState::Compensated);
}

#[test]
fn after_the_pivot_it_only_alarms() {
    let steps = || {
        plan(vec![
            call("p", Pivot, &[]),
            signal("w", Retriable, &["p"], "go", Some(1_000)),
            delay("d", Retriable, &["p"], 10),
        ])
    };
    let stalled = || {
        let mut world = World::started(&steps());
        assert_eq!(world.succeed("p"), ["p done", "w awaits", "d delays"]);
        assert_eq!(world.wait("w"), ["w stalled"]);
        world.nothing(Command::SignalTimeout { step: 1 });
        assert_eq!(world.state.attention(), ["w"]);
        world
    };
    let mut world = stalled();
    assert_eq!(world.ok(send_signal("go", "1")), ["signal go", "w done"]);
    assert!(world.state.attention().is_empty());
    assert_eq!(world.wait("d"), ["d done", "ended COMPLETED"]);
    let mut world = stalled();
    let retry = world.operate("w", OperatorAction::Retry);
    assert!(matches!(
        world.refused(retry),
        Refusal::NotResolvable { .. }
    ));
    assert_eq!(
        world.ok(world.operate("w", OperatorAction::Skip)),
        ["w SKIP"]
    );
    let mut world = stalled();
    assert_eq!(
        world.ok(world.operate("w", OperatorAction::ResolveSucceeded)),
        ["w RESOLVE_SUCCEEDED"]
    );
    assert_eq!(world.state.output(1), Some(&text("seen")));
}

#[test]
fn a_wait_that_is_aborted_was_never_started() {
    let mut world = World::started(&plan(vec![
        delay("d", ReadOnly, &[], 5_000),
        call("a", Compensatable, &["d"]),
    ]));
    assert_eq!(
        world.ok(cancel()),
        ["cancel", "aborted CANCELLED", "ended COMPENSATED"]
    );
    world.now += 5_000;
    world.nothing(Command::DelayDue { step: 0 });
}

#[test]
fn a_saga_keeps_a_thousand_signals_at_most() {
    let mut world = World::started(&plan(vec![
        call("a", Compensatable, &[]),
        signal("w", ReadOnly, &["a"], "go", None),
    ]));
    for id in 0..1_000 {
        world.act(send_signal("go", &id.to_string())).expect("kept");
    }
    assert_eq!(
        world.refused(send_signal("go", "more")),
        Refusal::TooManySignals(1_000)
    );
    world.succeed("a");
}
