//! Operators' actions.

use sagamesh_api::saga::v1::{OperatorAction, SagaState, transition::Kind as T};

use super::harness::*;
use crate::saga::{Command, Refusal, StepPhase};

/// a is done and its compensation is parked.
fn parked() -> World {
    let mut world = World::started(&chain());
    world.succeed("a");
    world.reject("b", Action);
    world.reject("a", Compensation);
    world
}

#[test]
fn a_retry_gives_fresh_attempts() {
    let mut world = parked();
    assert_eq!(
        world.ok(world.operate("a", OperatorAction::Retry)),
        ["undo a RETRY", "undo a 2"]
    );
    assert_eq!(
        world.fail("a", Compensation),
        ["undo a failed", "undo a backs off"]
    );
    world.wait("a");
    assert_eq!(
        world.fail("a", Compensation),
        ["undo a failed", "undo a parked COMPENSATION_EXHAUSTED"]
    );
    world.ok(world.operate("a", OperatorAction::Retry));
    assert_eq!(world.undo("a"), ["undo a done", "ended COMPENSATED"]);
}

#[test]
fn a_skipped_compensation_is_a_leftover() {
    let mut world = parked();
    assert_eq!(
        world.ok(world.operate("a", OperatorAction::Skip)),
        ["undo a SKIP", "ended COMPENSATED_WITH_LEFTOVERS"]
    );
    assert_eq!(world.state.leftovers(), ["a"]);
    assert_eq!(world.saga(), SagaState::CompensatedWithLeftovers);
    let Some(T::Ended(ended)) = world
        .events
        .last()
        .and_then(|event| event.transitions.last()?.kind.clone())
    else {
        panic!("it ended");
    };
    assert_eq!(ended.leftovers, ["a"]);
}

#[test]
fn a_leftover_does_not_hold_back_what_comes_before_it() {
    let mut world = World::started(&chain());
    world.succeed("a");
    world.succeed("b");
    world.reject("c", Action);
    world.reject("b", Compensation);
    assert_eq!(
        world.ok(world.operate("b", OperatorAction::Skip)),
        ["undo b SKIP", "undo a 1"]
    );
    assert_eq!(
        world.undo("a"),
        ["undo a done", "ended COMPENSATED_WITH_LEFTOVERS"]
    );
}

#[test]
fn a_compensation_that_was_seen_to_have_happened_counts() {
    let mut world = parked();
    assert_eq!(
        world.ok(world.operate("a", OperatorAction::ResolveSucceeded)),
        ["undo a RESOLVE_SUCCEEDED", "ended COMPENSATED"]
    );
    assert_eq!(
        world.state.output(0),
        Some(&text("out-a")),
        "the action's output stays"
    );
}

#[test]
fn who_and_why_are_recorded() {
    let mut world = parked();
    world.ok(world.operate("a", OperatorAction::Skip));
    let Some(T::OperatorActed(acted)) = world
        .events
        .last()
        .and_then(|event| event.transitions.first()?.kind.clone())
    else {
        panic!("recorded");
    };
    assert_eq!(
        (acted.operator.as_str(), acted.reason.as_str()),
        ("ada", "looked")
    );
    assert_eq!(acted.direction(), Compensation);
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let mut world = parked();
    let rejected = world.operate("a", OperatorAction::ResolveRejected);
    assert!(matches!(world.refused(rejected), Refusal::NotResolvable { step, .. } if step == "a"));
    let nothing = world.operate("a", OperatorAction::Unspecified);
    assert!(matches!(
        world.refused(nothing),
        Refusal::NotResolvable { .. }
    ));
    let healthy = world.operate("b", OperatorAction::Retry);
    assert_eq!(world.refused(healthy).reason(), "STEP_NOT_RESOLVABLE");
    let stranger = world.operate("zzz", OperatorAction::Retry);
    assert_eq!(world.refused(stranger), Refusal::UnknownStep("zzz".into()));
    world.ok(world.operate("a", OperatorAction::Skip));
    let late = world.operate("a", OperatorAction::Retry);
    assert_eq!(world.refused(late), Refusal::Ended);
}

#[test]
fn a_step_after_the_pivot_may_be_skipped_or_resolved() {
    let at_r = || {
        let mut world = World::started(&plan(vec![
            call("p", Pivot, &[]),
            call("r", Retriable, &["p"]),
            call("s", Retriable, &["r"]),
        ]));
        world.succeed("p");
        world
    };
    let mut world = at_r();
    let early = world.operate("r", OperatorAction::Skip);
    assert!(
        matches!(world.refused(early), Refusal::NotResolvable { .. }),
        "nothing is wrong with it"
    );
    world.reject("r", Action);
    assert_eq!(
        world.ok(world.operate("r", OperatorAction::Skip)),
        ["r SKIP", "s 1"]
    );
    assert_eq!(world.phase("r"), StepPhase::Skipped);
    assert_eq!(world.succeed("s"), ["s done", "ended COMPLETED"]);

    let mut world = at_r();
    world.reject("r", Action);
    assert_eq!(
        world.ok(world.operate("r", OperatorAction::ResolveSucceeded)),
        ["r RESOLVE_SUCCEEDED", "s 1"]
    );

    // Stalled and under way: skipped, and what comes later is refused.
    let mut world = at_r();
    world.now += 300_000;
    world.ok(Command::StallCheck { step: 1 });
    let retry = world.operate("r", OperatorAction::Retry);
    assert!(matches!(
        world.refused(retry),
        Refusal::NotResolvable { .. }
    ));
    let late = world.result("r", Action, success("late"));
    assert_eq!(
        world.ok(world.operate("r", OperatorAction::Skip)),
        ["r SKIP", "s 1"]
    );
    assert_eq!(world.ok(late.clone()), ["r superseded"]);
    assert_eq!(world.refused(late), Refusal::Superseded);

    // Stalled and backing off: tried again at once.
    let mut world = at_r();
    world.fail("r", Action);
    world.now += 300_000;
    world.ok(Command::StallCheck { step: 1 });
    assert_eq!(
        world.ok(world.operate("r", OperatorAction::Retry)),
        ["r RETRY", "r 2"]
    );
    assert!(world.state.attention().is_empty());
}

#[test]
fn all_steps_that_an_action_fits_at_once() {
    let mut world = World::started(&diamond());
    world.succeed("a");
    world.succeed("b");
    let nothing = world.operate("", OperatorAction::Retry);
    assert!(matches!(
        world.refused(nothing),
        Refusal::NotResolvable { .. }
    ));
    world.succeed("p");
    world.reject("r", Action);
    world.reject("s", Action);
    assert_eq!(
        world.ok(world.operate("", OperatorAction::Skip)),
        ["r SKIP", "s SKIP", "ended COMPLETED"]
    );
}
