//! Random sagas with random things happening to them.

use std::sync::Arc;

use proptest::prelude::*;
use sagamesh_api::saga::v1::{OperatorAction, Phase, UnknownCause};

use super::graphs::{NAMES, Sort, make};
use super::harness::*;
use crate::saga::{Command, Effect, Plan, Start, describe, outstanding};

/// Something that happens, chosen by numbers.
#[derive(Clone, Copy, Debug)]
struct Turn {
    kind: u8,
    pick: usize,
    outcome: u8,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (0..20u8, any::<usize>(), any::<u8>()).prop_map(|(kind, pick, outcome)| Turn {
        kind,
        pick,
        outcome,
    });
    proptest::collection::vec(turn, 0..60)
}

/// A valid definition: some steps, perhaps a pivot after all of them, perhaps more after that.
fn plans() -> impl Strategy<Value = Arc<Plan>> {
    (
        1..5usize,
        any::<bool>(),
        0..4usize,
        any::<u32>(),
        any::<u32>(),
    )
        .prop_map(|(before, pivot, behind, sorts, edges)| {
            let total = if pivot {
                (before + 1 + behind).min(NAMES.len())
            } else {
                before
            };
            let mut steps = Vec::new();
            for at in 0..total {
                let roll = (sorts >> (at * 3)) & 7;
                let earlier = |from: usize, to: usize| {
                    (from..to)
                        .filter(move |other| edges.rotate_left((at * 5) as u32) & (1 << other) != 0)
                };
                let (sort, after) = match at {
                    _ if at < before => (
                        sort_of(roll, Compensatable, ReadOnly),
                        earlier(0, at).collect::<Vec<_>>(),
                    ),
                    _ if at == before => (Sort::Call(Pivot), (0..before).collect()),
                    _ => {
                        let after: Vec<usize> = earlier(before + 1, at).collect();
                        (
                            sort_of(roll, Retriable, Retriable),
                            if after.is_empty() {
                                vec![before]
                            } else {
                                after
                            },
                        )
                    }
                };
                steps.push(make(at, sort, &after));
            }
            Arc::new(Plan::compile(&definition(steps)).expect("valid by construction"))
        })
}

fn sort_of(roll: u32, call: Phase, wait: Phase) -> Sort {
    match roll {
        0 => Sort::Delay(wait),
        1 => Sort::Signal(wait),
        2 => Sort::Call(wait),
        _ => Sort::Call(call),
    }
}

/// Takes a turn; whatever it is, the saga must stay sound.
fn take(world: &mut World, turn: Turn) {
    let owed = outstanding(&world.state);
    let command = match turn.kind {
        0 => cancel(),
        1 => send_signal("go", &(turn.pick % 4).to_string()),
        2 => world.operate(
            world
                .plan
                .step((turn.pick % world.plan.steps().len()) as u8)
                .name
                .clone()
                .as_str(),
            action(turn.outcome),
        ),
        3 => world.operate("", action(turn.outcome)),
        4 => Command::Start(Box::new(start(&world.plan))),
        5 => Command::DeadlineReached,
        6 | 7 => match stale(world, turn) {
            Some(command) => command,
            None => return,
        },
        8 => {
            // Results and timers that nobody waits for.
            let step = (turn.pick % world.plan.steps().len()) as u8;
            let direction = if turn.outcome.is_multiple_of(2) {
                Action
            } else {
                Compensation
            };
            match turn.outcome % 5 {
                0 => Command::RetryDue { step, direction },
                1 => Command::DelayDue { step },
                2 => Command::SignalTimeout { step },
                3 => Command::StallCheck { step },
                _ => world.result_with(
                    &world.plan.step(step).name,
                    direction,
                    turn.pick as u64,
                    outcome(turn.outcome),
                ),
            }
        }
        _ if owed.is_empty() => return,
        _ => answer(world, owed[turn.pick % owed.len()], turn),
    };
    let before = world.state.clone();
    match world.act(command) {
        Ok(record) if record.is_empty() => assert_eq!(world.state, before),
        Ok(_) => {}
        Err(refusal) => {
            assert_eq!(world.state, before);
            assert_ne!(refusal.reason(), "SAGA_HISTORY_CORRUPT", "{refusal}");
        }
    }
}

fn answer(world: &mut World, effect: Effect, turn: Turn) -> Command {
    match effect {
        Effect::Timer { at, timer } => {
            world.now = world.now.max(at);
            timer.command()
        }
        Effect::Settle { step, token, .. } if turn.outcome.is_multiple_of(3) => {
            Command::NeverSent {
                step,
                direction: Action,
                token,
            }
        }
        Effect::Settle { step, token, .. } => attempt(world, step, Action, token, turn),
        Effect::Send {
            step,
            direction,
            token,
            ..
        } => attempt(world, step, direction, token, turn),
    }
}

fn attempt(
    world: &World,
    step: u8,
    direction: sagamesh_api::saga::v1::Direction,
    token: u64,
    turn: Turn,
) -> Command {
    match turn.outcome % 8 {
        0 => Command::AttemptTimedOut {
            step,
            direction,
            token,
            cause: UnknownCause::Timeout,
        },
        1 => Command::AttemptTimedOut {
            step,
            direction,
            token,
            cause: UnknownCause::HeartbeatLost,
        },
        other => world.result_with(
            &world.plan.step(step).name,
            direction,
            token,
            outcome(other),
        ),
    }
}

fn outcome(roll: u8) -> sagamesh_api::saga::v1::result::Outcome {
    match roll % 8 {
        2 => rejection("NO"),
        3 => transient("BUSY"),
        4 => unknown("LOST"),
        _ => success("x"),
    }
}

fn action(roll: u8) -> OperatorAction {
    match roll % 4 {
        0 => OperatorAction::Retry,
        1 => OperatorAction::Skip,
        2 => OperatorAction::ResolveSucceeded,
        _ => OperatorAction::ResolveRejected,
    }
}

/// A result with the token of some attempt of the past.
fn stale(world: &World, turn: Turn) -> Option<Command> {
    use sagamesh_api::saga::v1::transition::Kind;
    let all = world.events.iter().flat_map(|event| &event.transitions);
    let dispatched: Vec<_> = all
        .filter_map(|transition| match &transition.kind {
            Some(Kind::Dispatched(it)) => Some(it),
            _ => None,
        })
        .collect();
    let old = dispatched.get(turn.pick % dispatched.len().max(1))?;
    Some(world.result_with(
        &old.step,
        old.direction(),
        old.lease_token,
        outcome(turn.outcome),
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The checks are in the harness: history, effects, replay, storage, description.
    #[test]
    fn whatever_happens_a_saga_stays_sound_and_ends(plan in plans(), turns in turns(), deadline in prop::option::of(1_000..200_000i64), seed in any::<u64>()) {
        let mut world = World::new(&plan);
        world.seed = seed;
        let begin = Start { deadline_millis: deadline, ..start(&plan) };
        world.act(Command::Start(Box::new(begin))).expect("a start");
        let mut stale_records = 0;
        for turn in turns {
            take(&mut world, turn);
        }
        for event in &world.events {
            stale_records += event.transitions.iter().filter(|transition| show(transition).ends_with("superseded")).count();
        }
        let attempts: u32 = describe("saga", &world.state).steps.iter().map(|step| step.attempts + step.compensation_attempts).sum();
        prop_assert!(stale_records <= attempts as usize, "each attempt is recorded as superseded once at most");
        world.check_replay();
        world.finish();
        prop_assert!(outstanding(&world.state).is_empty());
    }
}
