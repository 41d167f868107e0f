//! All that can happen to all small sagas: every reachable state, every outcome from each.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use sagamesh_api::saga::v1::{Direction, OperatorAction};

use super::graphs::{Sort, all};
use super::harness::*;
use crate::saga::state::{Attempt, Cell, Outcome};
use crate::saga::{Command, Effect, Plan, StepPhase, decide, outstanding};

/// What tells states apart: everything but tokens, times, attempts without a limit, and what no longer matters.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(run) = &world.state.run {
        let mut core = run.core.clone();
        core.cancelled = false;
        core.end = None;
        for cell in &mut core.cells {
            simplify(cell, core.aborting);
        }
        core.hash(&mut hasher);
        run.signals
            .iter()
            .filter(|signal| !signal.taken)
            .count()
            .hash(&mut hasher);
    }
    world.history.summary().hash(&mut hasher);
    hasher.finish()
}

fn simplify(cell: &mut Cell, aborting: bool) {
    let undoing = matches!(
        cell.phase,
        StepPhase::Compensating | StepPhase::UndoBackingOff | StepPhase::UndoParked
    );
    let trying = matches!(
        cell.phase,
        StepPhase::Running | StepPhase::BackingOff | StepPhase::Parked
    );
    let used = if undoing {
        cell.undo_attempts
    } else {
        cell.attempts
    }
    .saturating_sub(cell.base)
    .min(2);
    *cell = Cell {
        action: Attempt {
            token: 0,
            outcome: if trying || cell.phase == StepPhase::Unknown {
                cell.action.outcome
            } else {
                Outcome::None
            },
        },
        undo: Attempt {
            token: 0,
            outcome: if undoing {
                cell.undo.outcome
            } else {
                Outcome::None
            },
        },
        attempts: if trying && !aborting { used } else { 0 },
        undo_attempts: if undoing { used } else { 0 },
        base: 0,
        since: 0,
        until: 0,
        older_unknown: cell.older_unknown && (trying || cell.phase == StepPhase::Unknown),
        ..*cell
    };
}

/// Everything that may come next.
fn choices(world: &World) -> Vec<(i64, Command)> {
    let mut choices = Vec::new();
    let now = world.now;
    for effect in outstanding(&world.state) {
        match effect {
            Effect::Send {
                step, direction, ..
            } => attempt(world, step, direction, &mut choices),
            Effect::Settle { step, token, .. } => {
                attempt(world, step, Action, &mut choices);
                choices.push((
                    now,
                    Command::NeverSent {
                        step,
                        direction: Action,
                        token,
                    },
                ));
            }
            Effect::Timer { at, timer } => choices.push((now.max(at), timer.command())),
        }
    }
    choices.push((now, cancel()));
    let kept = world.state.run.as_ref().map_or(0, |run| {
        run.signals.iter().filter(|signal| !signal.taken).count()
    });
    if kept < 2 && world.plan.waits_for_signal("go") {
        choices.push((now, send_signal("go", &world.state.version().to_string())));
    }
    let attention = world.state.attention();
    for step in world.plan.indices() {
        let name = &world.plan.step(step).name;
        let phase = world.state.step_phase(step);
        // A late word about an attempt that was given up.
        let late = match phase {
            Some(
                StepPhase::BackingOff
                | StepPhase::Parked
                | StepPhase::Unknown
                | StepPhase::Compensating,
            ) => Some(Action),
            Some(StepPhase::UndoBackingOff | StepPhase::UndoParked) => Some(Compensation),
            _ => None,
        };
        if let Some(direction) = late {
            for outcome in [success("late"), rejection("LATE"), transient("LATE")] {
                choices.push((now, world.result(name, direction, outcome)));
            }
        }
        if !attention.contains(name) {
            continue;
        }
        for action in [
            OperatorAction::Retry,
            OperatorAction::Skip,
            OperatorAction::ResolveSucceeded,
            OperatorAction::ResolveRejected,
        ] {
            choices.push((now, world.operate(name, action)));
        }
    }
    choices
}

fn attempt(world: &World, step: u8, direction: Direction, choices: &mut Vec<(i64, Command)>) {
    let name = &world.plan.step(step).name;
    for outcome in [success("x"), rejection("NO"), transient("BUSY")] {
        choices.push((world.now, world.result(name, direction, outcome)));
    }
    choices.push((world.now, world.timeout_of(name, direction)));
}

/// Visits every state; returns how many there are, and how many of them are ends.
fn explore(plan: &Arc<Plan>) -> (usize, usize) {
    let first = World::started_with(crate::saga::Start {
        deadline_millis: Some(100_000_000),
        input: BTreeMap::new(),
        search_attributes: BTreeMap::new(),
        traceparent: String::new(),
        parent_span_id: 0,
        shard: 0,
        ..start(plan)
    });
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut open = vec![first];
    let mut ends = 0;
    while let Some(world) = open.pop() {
        assert!(seen.len() < 200_000, "too many states");
        if world.state.has_ended() {
            ends += 1;
            continue;
        }
        let mut moves = 0;
        for (now, command) in choices(&world) {
            let seed = world.state.version().wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let Ok(record) = decide(&world.state, &command, now, seed) else {
                continue;
            };
            if record.is_empty() {
                continue;
            }
            moves += 1;
            let mut next = world.branch();
            next.now = now;
            next.record(&record);
            if seen.insert(fingerprint(&next)) {
                open.push(next);
            }
        }
        assert!(moves > 0, "an open saga that nothing can move");
    }
    (seen.len(), ends)
}

fn explore_all(steps: usize, sorts: &[Sort]) -> (usize, usize, usize) {
    let plans = all(steps, sorts);
    let mut total = (plans.len(), 0, 0);
    for plan in &plans {
        let (states, ends) = explore(plan);
        assert!(ends > 0);
        total.1 += states;
        total.2 += ends;
    }
    total
}

const CALLS: [Sort; 4] = [
    Sort::Call(Compensatable),
    Sort::Call(ReadOnly),
    Sort::Call(Pivot),
    Sort::Call(Retriable),
];

const ALL: [Sort; 8] = [
    Sort::Call(Compensatable),
    Sort::Call(ReadOnly),
    Sort::Call(Pivot),
    Sort::Call(Retriable),
    Sort::Delay(ReadOnly),
    Sort::Delay(Retriable),
    Sort::Signal(ReadOnly),
    Sort::Signal(Retriable),
];

#[test]
fn all_sagas_of_one_and_two_steps() {
    let (definitions, states, ends) = explore_all(1, &ALL);
    assert_eq!(
        (definitions, states > 100, ends >= 20),
        (5, true, true),
        "{states} {ends}"
    );
    let (definitions, states, ends) = explore_all(2, &ALL);
    assert_eq!(
        (definitions, states > 1_000, ends > 100),
        (39, true, true),
        "{states} {ends}"
    );
}

#[test]
fn all_sagas_of_three_calls() {
    let (definitions, states, ends) = explore_all(3, &CALLS);
    assert_eq!(
        (definitions, states > 10_000, ends > 1_000),
        (83, true, true),
        "{states} {ends}"
    );
}

#[test]
fn all_sagas_of_three_steps_that_wait_or_undo() {
    let sorts = [
        Sort::Call(Compensatable),
        Sort::Call(Pivot),
        Sort::Signal(ReadOnly),
        Sort::Signal(Retriable),
    ];
    let (definitions, states, ends) = explore_all(3, &sorts);
    assert_eq!(
        (definitions, states > 10_000, ends > 1_000),
        (83, true, true),
        "{states} {ends}"
    );
}
