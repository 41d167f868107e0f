//! Aborts and compensations.

use sagamesh_api::saga::v1::{SagaState, StepState, WaitsOn};

use super::harness::*;
use crate::saga::{
    ABORT_MESSAGE_FIELD, ABORT_REASON_FIELD, Command, Effect, Refusal, StepPhase, build_command,
    describe, outstanding,
};

#[test]
fn compensations_run_in_reverse_order() {
    let mut world = World::started(&chain());
    world.succeed("a");
    world.succeed("b");
    assert_eq!(
        world.reject("c", Action),
        ["c rejected", "aborted REJECTED c", "undo b 1"]
    );
    assert_eq!(world.undo("b"), ["undo b done", "undo a 1"]);
    assert_eq!(world.undo("a"), ["undo a done", "ended COMPENSATED"]);
    assert_eq!(world.phase("c"), StepPhase::Rejected);
}

#[test]
fn compensations_run_at_the_same_time_where_the_order_allows_it() {
    let mut world = World::started(&diamond());
    world.succeed("a");
    world.succeed("b");
    assert_eq!(
        world.reject("p", Action),
        ["p rejected", "aborted REJECTED p", "undo a 1", "undo b 1"]
    );
    assert!(!world.state.pivot_dispatched(), "the abort is open again");
    world.undo("b");
    assert_eq!(world.undo("a"), ["undo a done", "ended COMPENSATED"]);
}

#[test]
fn a_running_attempt_is_settled_before_anything_before_it_is_undone() {
    let steps = vec![
        call("a", Compensatable, &[]),
        call("b", Compensatable, &["a"]),
        call("c", Compensatable, &["a"]),
        call("d", Compensatable, &[]),
    ];
    let mut world = World::started(&plan(steps));
    world.succeed("a");
    world.succeed("d");
    // b still runs: a waits for it, d does not.
    assert_eq!(
        world.reject("c", Action),
        ["c rejected", "aborted REJECTED c", "undo d 1"]
    );
    let settle = |effect: &Effect| matches!(effect, Effect::Settle { step: 1, .. });
    assert!(
        outstanding(&world.state).iter().any(settle),
        "b is not sent any more"
    );
    assert_eq!(world.succeed("b"), ["b done", "undo b 1"]);
    assert_eq!(world.undo("b"), ["undo b done", "undo a 1"]);
    world.undo("a");
    assert_eq!(world.undo("d"), ["undo d done", "ended COMPENSATED"]);
}

#[test]
fn how_a_running_attempt_ends_decides_whether_it_is_undone() {
    let aborted = || {
        let mut world = World::started(&plan(vec![
            call("a", Compensatable, &[]),
            call("b", Compensatable, &[]),
        ]));
        world.reject("b", Action);
        world
    };
    assert_eq!(
        aborted().reject("a", Action),
        ["a rejected", "ended COMPENSATED"]
    );
    assert_eq!(
        aborted().fail("a", Action),
        ["a failed", "ended COMPENSATED"]
    );
    assert_eq!(aborted().time_out("a", Action), ["a unknown", "undo a 1"]);
    assert_eq!(aborted().succeed("a"), ["a done", "undo a 1"]);
    let mut world = aborted();
    let never_sent = Command::NeverSent {
        step: 0,
        direction: Action,
        token: world.token("a", Action),
    };
    assert_eq!(
        world.ok(never_sent.clone()),
        ["a failed", "ended COMPENSATED"]
    );
    world.nothing(never_sent);
}

#[test]
fn a_step_that_backs_off_from_an_unknown_outcome_is_undone_one_from_a_failure_is_not() {
    let steps = || {
        plan(vec![
            call("a", Compensatable, &[]),
            call("b", Compensatable, &[]),
        ])
    };
    let mut world = World::started(&steps());
    world.time_out("a", Action);
    assert_eq!(
        world.reject("b", Action),
        ["b rejected", "aborted REJECTED b", "undo a 1"]
    );
    let mut world = World::started(&steps());
    world.fail("a", Action);
    assert_eq!(
        world.reject("b", Action),
        ["b rejected", "aborted REJECTED b", "ended COMPENSATED"]
    );
}

#[test]
fn a_late_result_of_an_unknown_step_still_counts_until_it_is_being_undone() {
    let steps = || {
        plan(vec![
            call("a", Compensatable, &[]),
            call("b", Compensatable, &["a"]),
            call("c", Compensatable, &["a"]),
        ])
    };
    let unknown_a_behind_c = || {
        let mut world = World::started(&steps());
        world.succeed("a");
        world.time_out("b", Action);
        world.ok(cancel());
        world
    };
    // c runs still; b is being undone already, its late result is refused.
    let mut world = unknown_a_behind_c();
    let late = world.result("b", Action, success("late"));
    assert_eq!(world.phase("b"), StepPhase::Compensating);
    assert_eq!(world.ok(late.clone()), ["b superseded"]);
    assert_eq!(world.refused(late), Refusal::Superseded);
    world.finish();

    // A chain: b is unknown and waits for c, so a late word about it counts.
    let chain = plan(vec![
        call("a", Compensatable, &[]),
        call("c", Compensatable, &["a"]),
    ]);
    let mut world = World::started(&chain);
    world.succeed("a");
    world.ok(cancel());
    world.time_out("c", Action);
    assert_eq!(world.phase("c"), StepPhase::Compensating);
    world.finish();
}

#[test]
fn compensations_get_input_output_and_reason() {
    let mut content = definition(vec![
        call("a", Compensatable, &[]),
        call("b", Compensatable, &["a"]),
    ]);
    for step in &mut content.steps {
        if let Some(sagamesh_api::saga::v1::step::Kind::Call(call)) = &mut step.kind {
            call.input_fields = vec!["x".into(), "absent".into()];
            if step.name == "b" {
                call.outputs_of = vec!["a".into()];
            }
        }
    }
    let plan = std::sync::Arc::new(crate::saga::Plan::compile(&content).expect("valid"));
    let mut world = World::started(&plan);
    let action = build_command("saga", &world.state, 0, Action, NOW + 5).expect("a command");
    assert_eq!(action.action, "do.a");
    assert_eq!(
        action.input.keys().collect::<Vec<_>>(),
        ["x"],
        "only the fields that it lists"
    );
    assert_eq!(
        action.not_after_time,
        Some(crate::saga::time::timestamp(NOW + 5 + 10_000))
    );
    assert_eq!(action.traceparent, "00-1-2-01");
    assert_eq!(action.attempt, 1);
    world.succeed("a");
    let second = build_command("saga", &world.state, 1, Action, NOW).expect("a command");
    assert_eq!(second.outputs.get("a"), Some(&text("out-a")));
    world.time_out("b", Action);
    world.wait("b");
    assert_eq!(
        world.reject("b", Action),
        ["b rejected", "aborted REJECTED b", "undo b 1"]
    );
    let undo = build_command("saga", &world.state, 1, Compensation, NOW).expect("a command");
    assert_eq!(undo.action, "undo.b");
    assert_eq!(undo.action_output, None, "its output is not known");
    assert_eq!(undo.not_after_time, None);
    assert_eq!(undo.input.get(ABORT_REASON_FIELD), Some(&text("NO")));
    assert_eq!(
        undo.input.get(ABORT_MESSAGE_FIELD),
        Some(&text("because of NO"))
    );
    assert_eq!(undo.input.get("x"), Some(&text("1")));
    assert_eq!(undo.outputs.get("a"), Some(&text("out-a")));
    world.undo("b");
    let undo = build_command("saga", &world.state, 0, Compensation, NOW).expect("a command");
    assert_eq!(undo.action_output, Some(text("out-a")));
    assert_eq!(build_command("saga", &world.state, 9, Action, NOW), None);
}

#[test]
fn the_deadline_bounds_when_an_action_may_take_effect() {
    let mut world = World::started_with(crate::saga::Start {
        deadline_millis: Some(4_000),
        ..start(&chain())
    });
    world.now += 10;
    let command = build_command("saga", &world.state, 0, Action, world.now).expect("a command");
    assert_eq!(
        command.not_after_time,
        Some(crate::saga::time::timestamp(NOW + 4_000))
    );
}

#[test]
fn a_compensation_that_uses_up_its_attempts_parks_while_other_branches_go_on() {
    let mut world = World::started(&plan(vec![
        call("a", Compensatable, &[]),
        call("b", Compensatable, &["a"]),
        call("c", Compensatable, &[]),
        call("d", Compensatable, &["b", "c"]),
    ]));
    for step in ["a", "b", "c"] {
        world.succeed(step);
    }
    assert_eq!(
        world.reject("d", Action),
        ["d rejected", "aborted REJECTED d", "undo b 1", "undo c 1"]
    );
    assert_eq!(
        world.fail("b", Compensation),
        ["undo b failed", "undo b backs off"]
    );
    assert_eq!(world.wait("b"), ["undo b 2"]);
    assert_eq!(
        world.time_out("b", Compensation),
        ["undo b unknown", "undo b parked COMPENSATION_EXHAUSTED"]
    );
    assert_eq!(world.saga(), SagaState::Parked);
    assert_eq!(world.state.attention(), ["b"]);
    let saga = describe("saga", &world.state);
    assert_eq!(
        (saga.steps[1].state(), saga.steps[1].waits_on()),
        (StepState::Parked, WaitsOn::Operator)
    );
    assert_eq!(
        world.undo("c"),
        ["undo c done"],
        "the other branch goes on, a waits"
    );
    // The answer that was missed comes after all.
    assert_eq!(world.undo("b"), ["undo b done", "undo a 1"]);
    assert_eq!(world.saga(), SagaState::Compensating);
    world.finish();
}

#[test]
fn a_rejected_compensation_parks_at_once() {
    let mut world = World::started(&chain());
    world.succeed("a");
    world.reject("b", Action);
    assert_eq!(
        world.reject("a", Compensation),
        ["undo a rejected", "undo a parked COMPENSATION_REJECTED"]
    );
    assert_eq!(world.saga(), SagaState::Parked);
}

#[test]
fn steps_that_only_read_are_never_undone() {
    let mut world = World::started(&plan(vec![
        call("a", ReadOnly, &[]),
        call("b", ReadOnly, &[]),
        call("c", Compensatable, &["a"]),
    ]));
    world.succeed("a");
    world.time_out("b", Action);
    assert_eq!(
        world.reject("c", Action),
        ["c rejected", "aborted REJECTED c", "ended COMPENSATED"]
    );
    assert_eq!(world.phase("a"), StepPhase::Succeeded);
    assert_eq!(world.phase("b"), StepPhase::Rejected);
}

#[test]
fn nothing_is_released_forward_after_the_abort() {
    let mut world = World::started(&plan(vec![
        call("a", Compensatable, &[]),
        call("b", Compensatable, &[]),
        call("c", Compensatable, &["a"]),
    ]));
    world.reject("b", Action);
    assert_eq!(world.succeed("a"), ["a done", "undo a 1"]);
    assert_eq!(world.phase("c"), StepPhase::NotStarted);
}
