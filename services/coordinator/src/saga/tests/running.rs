//! Going forward: starts, retries, duplicates, late results, cancelling, deadlines.

use prost_types::Duration;
use sagamesh_api::saga::v1::{ResultStatus, SagaState, UnknownCause, WaitsOn, result};

use super::harness::*;
use crate::saga::time::millis;
use crate::saga::{
    Command, Effect, Refusal, StepPhase, Timer, describe, outstanding, result_status,
};

#[test]
fn a_start_releases_all_ready_steps_in_the_same_record() {
    let mut world = World::new(&diamond());
    let record = world.ok(Command::Start(Box::new(start(&world.plan.clone()))));
    assert_eq!(record, ["started", "a 1", "b 1"]);
    assert_eq!(world.saga(), SagaState::Running);
}

#[test]
fn a_success_releases_successors_in_the_same_record_up_to_the_end() {
    let mut world = World::started(&diamond());
    assert_eq!(world.succeed("b"), ["b done"]);
    assert_eq!(world.succeed("a"), ["a done", "p 1"]);
    assert_eq!(world.succeed("p"), ["p done", "r 1", "s 1"]);
    assert_eq!(world.succeed("s"), ["s done"]);
    assert_eq!(world.succeed("r"), ["r done", "ended COMPLETED"]);
    assert!(world.state.has_ended());
    assert!(outstanding(&world.state).is_empty());
}

#[test]
fn the_same_start_again_changes_nothing_and_another_is_refused() {
    let plan = diamond();
    let mut world = World::started(&plan);
    world.nothing(Command::Start(Box::new(start(&plan))));
    let mut other = start(&plan);
    other.input.clear();
    assert_eq!(
        world.refused(Command::Start(Box::new(other))),
        Refusal::IdReused("input")
    );
    let mut other = start(&plan);
    other.deadline_millis = Some(5);
    assert_eq!(
        world.refused(Command::Start(Box::new(other))),
        Refusal::IdReused("deadline")
    );
    let mut other = start(&plan);
    other.search_attributes.clear();
    assert_eq!(
        world.refused(Command::Start(Box::new(other))),
        Refusal::IdReused("set of search attributes")
    );
    // Another version matters only to a client that named one.
    let newer = chain();
    let mut other = start(&newer);
    world.nothing(Command::Start(Box::new(other.clone())));
    other.version_chosen = true;
    assert_eq!(
        world.refused(Command::Start(Box::new(other))),
        Refusal::IdReused("definition")
    );
}

#[test]
fn tokens_differ_and_derive_from_the_seed() {
    let plan = diamond();
    let one = World::started(&plan);
    let two = World::started(&plan);
    assert_eq!(
        one.events, two.events,
        "the same seed gives the same record"
    );
    assert_ne!(one.token("a", Action), one.token("b", Action));
    let mut three = World::new(&plan);
    three.seed = 7;
    three.ok(Command::Start(Box::new(start(&plan))));
    assert_ne!(one.token("a", Action), three.token("a", Action));
}

#[test]
fn transient_failures_are_retried_with_jitter_and_then_abort_with_nothing_to_undo() {
    let mut world = World::started(&chain());
    assert_eq!(world.fail("a", Action), ["a failed", "a backs off"]);
    let saga = describe("saga", &world.state);
    assert_eq!(saga.steps[0].waits_on(), WaitsOn::Timer);
    let until = millis(saga.steps[0].until_time.as_ref().expect("a time")) - NOW;
    assert!(
        (50..=100).contains(&until),
        "{until} ms is half to all of 100 ms"
    );
    assert_eq!(saga.steps[0].last_failure, Some(failure("BUSY")));
    assert_eq!(world.wait("a"), ["a 2"]);
    assert_eq!(
        world.fail("a", Action),
        [
            "a failed",
            "aborted ATTEMPTS_EXHAUSTED a",
            "ended COMPENSATED"
        ]
    );
    assert_eq!(world.phase("a"), StepPhase::Rejected);
    assert_eq!(world.phase("b"), StepPhase::NotStarted);
}

#[test]
fn a_participant_may_ask_for_a_longer_pause() {
    let mut world = World::started(&chain());
    let mut busy = failure("BUSY");
    busy.retry_after = Some(Duration {
        seconds: 90,
        nanos: 0,
    });
    world.ok(world.result("a", Action, result::Outcome::Transient(busy.clone())));
    let saga = describe("saga", &world.state);
    assert_eq!(
        saga.steps[0].until_time.as_ref().map(millis),
        Some(NOW + 90_000)
    );
    // But not for ever.
    let mut world = World::started(&chain());
    busy.retry_after = Some(Duration {
        seconds: i64::MAX,
        nanos: 0,
    });
    world.ok(world.result("a", Action, result::Outcome::Transient(busy)));
    let saga = describe("saga", &world.state);
    assert_eq!(
        saga.steps[0].until_time.as_ref().map(millis),
        Some(NOW + 24 * 3_600_000)
    );
}

#[test]
fn a_retry_timer_that_fires_early_says_when_to_come_again() {
    let mut world = World::started(&chain());
    world.fail("a", Action);
    let Some(Effect::Timer { at, timer }) = outstanding(&world.state).pop() else {
        panic!("a timer is owed");
    };
    assert_eq!(
        timer,
        Timer::Retry {
            step: 0,
            direction: Action
        }
    );
    assert_eq!(
        world.refused(timer.command()),
        Refusal::TooEarly { due: at }
    );
    world.now = at;
    world.ok(timer.command());
    world.nothing(timer.command());
}

#[test]
fn unknown_outcomes_are_retried_and_undone_on_abort() {
    let mut world = World::started(&chain());
    assert_eq!(world.time_out("a", Action), ["a unknown", "a backs off"]);
    world.wait("a");
    let lost = Command::AttemptTimedOut {
        step: 0,
        direction: Action,
        token: world.token("a", Action),
        cause: UnknownCause::HeartbeatLost,
    };
    assert_eq!(
        world.ok(lost),
        ["a unknown", "aborted ATTEMPTS_EXHAUSTED a", "undo a 1"]
    );
    assert_eq!(world.undo("a"), ["undo a done", "ended COMPENSATED"]);
}

#[test]
fn an_unknown_attempt_is_undone_even_if_a_later_one_was_rejected() {
    let mut world = World::started(&chain());
    world.ok(world.result("a", Action, unknown("LOST")));
    world.wait("a");
    assert_eq!(
        world.reject("a", Action),
        ["a rejected", "aborted REJECTED a", "undo a 1"]
    );
}

#[test]
fn repeated_and_late_results() {
    let mut world = World::started(&chain());
    let first = world.result("a", Action, transient("BUSY"));
    world.ok(first.clone());
    let again = world.act(first.clone());
    assert_eq!(result_status(&again), ResultStatus::Duplicate);
    world.wait("a");
    let late = world.act(first.clone());
    assert_eq!(result_status(&late), ResultStatus::Superseded);
    assert_eq!(late.map(|record| record.len()), Ok(1), "recorded once");
    assert_eq!(world.refused(first), Refusal::Superseded, "and not again");
    let garbage = world.result_with("a", Action, 99, success("x"));
    assert_eq!(
        world.refused(garbage),
        Refusal::Superseded,
        "tokens that were never ours are not recorded"
    );
    let good = world.result("a", Action, success("x"));
    world.ok(good.clone());
    assert_eq!(
        result_status(&world.act(good.clone())),
        ResultStatus::Duplicate
    );
    world.check_replay();
    world.succeed("b");
    world.succeed("c");
    assert!(world.state.has_ended());
    assert_eq!(
        result_status(&world.act(good)),
        ResultStatus::Duplicate,
        "also after the end"
    );
}

#[test]
fn a_late_definite_result_of_the_newest_attempt_counts_while_it_backs_off() {
    let mut world = World::started(&chain());
    world.time_out("a", Action);
    assert_eq!(world.succeed("a"), ["a done", "b 1"]);

    let mut world = World::started(&chain());
    world.time_out("a", Action);
    let reported = world.result("a", Action, unknown("LOST"));
    world.nothing(reported);
    assert_eq!(
        world.fail("a", Action),
        ["a failed"],
        "now it surely did nothing"
    );
    world.wait("a");
    assert_eq!(
        world.fail("a", Action),
        [
            "a failed",
            "aborted ATTEMPTS_EXHAUSTED a",
            "ended COMPENSATED"
        ]
    );

    let mut world = World::started(&chain());
    world.time_out("a", Action);
    assert_eq!(
        world.reject("a", Action),
        ["a rejected", "aborted REJECTED a", "ended COMPENSATED"]
    );
}

#[test]
fn results_that_make_no_sense_are_refused() {
    let mut world = World::started(&chain());
    let stranger = world.result_with("zzz", Action, 1, success("x"));
    assert_eq!(world.refused(stranger), Refusal::UnknownStep("zzz".into()));
    let Command::Result(mut empty) = world.result("a", Action, success("x")) else {
        panic!("a result");
    };
    empty.outcome = None;
    assert_eq!(
        world.refused(Command::Result(empty.clone())),
        Refusal::NoOutcome
    );
    empty.direction = 0;
    assert_eq!(
        world.refused(Command::Result(empty)),
        Refusal::NoAttempts("a".into())
    );
    let never = world.result_with("b", Action, 5, success("x"));
    assert_eq!(world.refused(never), Refusal::Superseded);
    let foreign = Command::RetryDue {
        step: 63,
        direction: Action,
    };
    assert_eq!(world.refused(foreign), Refusal::UnknownStep("#63".into()));
}

#[test]
fn failures_are_kept_within_their_limits() {
    let mut world = World::started(&chain());
    let mut long = failure("no, never! ");
    long.message = "x".repeat(5_000);
    world.ok(world.result("a", Action, result::Outcome::Transient(long)));
    let saga = describe("saga", &world.state);
    let last = saga.steps[0].last_failure.as_ref().expect("a failure");
    assert_eq!(last.reason, "NO__NEVER__");
    assert_eq!(last.message.len(), 1_000);
}

#[test]
fn cancelling_undoes_and_is_idempotent() {
    let mut world = World::started(&chain());
    world.succeed("a");
    world.succeed("b");
    assert_eq!(world.ok(cancel()), ["cancel", "aborted CANCELLED"]);
    world.nothing(cancel());
    assert_eq!(world.saga(), SagaState::Compensating);
    assert_eq!(world.time_out("c", Action), ["c unknown", "undo c 1"]);
    world.undo("c");
    world.undo("b");
    assert_eq!(world.undo("a"), ["undo a done", "ended COMPENSATED"]);
    world.nothing(cancel());
}

#[test]
fn a_completed_saga_cannot_be_cancelled() {
    let mut world = World::started(&plan(vec![call("a", Compensatable, &[])]));
    world.succeed("a");
    assert_eq!(world.refused(cancel()), Refusal::Ended);
    // Nor one that was undone for another reason.
    let mut world = World::started(&plan(vec![call("a", Compensatable, &[])]));
    world.reject("a", Action);
    assert_eq!(world.refused(cancel()), Refusal::Ended);
}

#[test]
fn the_deadline_aborts() {
    let mut world = World::started_with(crate::saga::Start {
        deadline_millis: Some(60_000),
        ..start(&chain())
    });
    let deadline = Effect::Timer {
        at: NOW + 60_000,
        timer: Timer::Deadline,
    };
    assert!(outstanding(&world.state).contains(&deadline));
    world.succeed("a");
    assert_eq!(
        world.refused(Command::DeadlineReached),
        Refusal::TooEarly { due: NOW + 60_000 }
    );
    world.now += 60_000;
    assert_eq!(world.ok(Command::DeadlineReached), ["aborted DEADLINE"]);
    world.nothing(Command::DeadlineReached);
    assert!(!outstanding(&world.state).contains(&deadline));
    world.finish();
    assert_eq!(world.saga(), SagaState::Compensated);
}

#[test]
fn the_definitions_deadline_is_the_default() {
    let mut content = definition(vec![call("a", Compensatable, &[])]);
    content.deadline = Some(Duration {
        seconds: 5,
        nanos: 0,
    });
    let plan = std::sync::Arc::new(crate::saga::Plan::compile(&content).expect("valid"));
    let mut world = World::started(&plan);
    assert_eq!(world.state.deadline(), Some(NOW + 5_000));
    world.nothing(Command::Start(Box::new(start(&plan))));
}
