//! Random definitions: every shape that a definition may have.

use std::time::Duration;

use chassis::timestamp::from_duration;
use sagamesh_api::saga::v1::{
    Call, Definition, Delay, Phase, RetryPolicy, Signal, Step, step::Kind,
};

use crate::dice::Dice;

/// Name of the signal that steps wait for.
pub const SIGNAL: &str = "go-on";

/// A definition called `name`, whose steps belong to these participants.
pub fn random(name: &str, participants: &[String], dice: &Dice) -> Definition {
    let before = dice.below(5);
    let pivot = dice.happens(600) || before == 0;
    let after = if pivot { dice.below(4) } else { 0 };
    let mut steps: Vec<Step> = Vec::new();
    for at in 0..before {
        let earlier: Vec<String> = steps.iter().map(|step| step.name.clone()).collect();
        let kind = match dice.below(20) {
            0 => delay(dice),
            1 => signal(dice),
            _ => call(participants, dice, true),
        };
        let phase = match &kind {
            Kind::Call(call) if !call.compensation.is_empty() => Phase::Compensatable,
            _ => Phase::ReadOnly,
        };
        steps.push(Step {
            name: format!("b{at}"),
            phase: phase.into(),
            after: some_of(&earlier, dice, 450),
            kind: Some(kind),
        });
    }
    if pivot {
        steps.push(Step {
            name: "pivot".to_owned(),
            phase: Phase::Pivot.into(),
            after: steps.iter().map(|step| step.name.clone()).collect(),
            kind: Some(call(participants, dice, false)),
        });
    }
    let mut later = vec!["pivot".to_owned()];
    for at in 0..after {
        let kind = match dice.below(20) {
            0 => delay(dice),
            _ => call(participants, dice, false),
        };
        let mut after = some_of(&later, dice, 450);
        if after.is_empty() {
            after.push("pivot".to_owned());
        }
        let name = format!("r{at}");
        later.push(name.clone());
        steps.push(Step {
            name,
            phase: Phase::Retriable.into(),
            after,
            kind: Some(kind),
        });
    }
    Definition {
        name: name.to_owned(),
        steps,
        deadline: dice.happens(400).then(|| millis(dice, 8_000, 60_000)),
        retention: None,
        description: String::new(),
    }
}

fn some_of(names: &[String], dice: &Dice, per_mille: u64) -> Vec<String> {
    let chosen = names.iter().filter(|_| dice.happens(per_mille));
    chosen.cloned().collect()
}

fn call(participants: &[String], dice: &Dice, before_pivot: bool) -> Kind {
    let undoable = before_pivot && dice.happens(900);
    Kind::Call(Call {
        participant: dice.pick(participants).cloned().unwrap_or_default(),
        action: if dice.happens(700) { "do" } else { "go" }.to_owned(),
        compensation: if undoable { "undo" } else { "" }.to_owned(),
        timeout: Some(millis(dice, 800, 4_000)),
        retry: Some(retry(dice)),
        compensation_retry: undoable.then(|| retry(dice)),
        heartbeat_timeout: dice.happens(200).then(|| millis(dice, 400, 800)),
        stalled_after: (!before_pivot).then(|| millis(dice, 5_000, 20_000)),
        ..Call::default()
    })
}

fn retry(dice: &Dice) -> RetryPolicy {
    RetryPolicy {
        max_attempts: u32::try_from(dice.within(1, 4)).unwrap_or(1),
        initial_backoff: Some(millis(dice, 50, 400)),
        max_backoff: Some(millis(dice, 1_000, 4_000)),
        multiplier: 2.0,
    }
}

fn delay(dice: &Dice) -> Kind {
    Kind::Delay(Delay {
        duration: Some(millis(dice, 100, 10_000)),
    })
}

fn signal(dice: &Dice) -> Kind {
    Kind::Signal(Signal {
        name: SIGNAL.to_owned(),
        timeout: Some(millis(dice, 2_000, 20_000)),
    })
}

fn millis(dice: &Dice, first: u64, last: u64) -> prost_types::Duration {
    from_duration(Duration::from_millis(dice.within(first, last)))
}
