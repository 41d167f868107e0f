//! Deciders that are wrong in one thing.

use coordinator::saga::{self, Command, Refusal, SagaState, StepPhase};
use sagamesh_api::saga::v1::result::Outcome;
use sagamesh_api::saga::v1::{
    Direction, Failure, Result as StepResult, Transition, UnknownCause, transition::Kind,
};

type Decided = Result<Vec<Transition>, Refusal>;

/// Puts the newest token into every result.
pub fn without_lease_check(state: &SagaState, command: &Command, now: i64, seed: u64) -> Decided {
    if let Command::Result(result) = command
        && let Some(step) = state.plan().and_then(|plan| plan.index_of(&result.step))
        && let Some((_, token)) = state.newest_attempt(step, result.direction())
    {
        let mut result = result.clone();
        result.lease_token = token;
        return saga::decide(state, &Command::Result(result), now, seed);
    }
    saga::decide(state, command, now, seed)
}

/// Undoes the first step that is done where the last one is due.
pub fn in_start_order(state: &SagaState, command: &Command, now: i64, seed: u64) -> Decided {
    let mut transitions = saga::decide(state, command, now, seed)?;
    let Some(plan) = state.plan() else {
        return Ok(transitions);
    };
    let due: Vec<String> = transitions
        .iter()
        .filter_map(|transition| match &transition.kind {
            Some(Kind::Dispatched(sent)) => Some(sent.step.clone()),
            _ => None,
        })
        .collect();
    for transition in &mut transitions {
        let Some(Kind::Dispatched(sent)) = &mut transition.kind else {
            continue;
        };
        if sent.direction() != Direction::Compensation || sent.attempt != 1 {
            continue;
        }
        let first = plan.steps().iter().enumerate().find(|(index, step)| {
            let index = u8::try_from(*index).unwrap_or(0);
            state.step_phase(index) == Some(StepPhase::Succeeded)
                && step.call().is_some_and(|call| call.compensation.is_some())
                && !due.contains(&step.name)
        });
        if let Some((_, step)) = first {
            sent.step.clone_from(&step.name);
            break;
        }
    }
    Ok(transitions)
}

/// Takes what is not known for a failure without effect.
pub fn unknown_is_no(state: &SagaState, command: &Command, now: i64, seed: u64) -> Decided {
    let failed = |saga_id: String, step: String, direction: Direction, lease_token| {
        let failure = Failure {
            reason: "LOST".to_owned(),
            ..Failure::default()
        };
        Command::Result(Box::new(StepResult {
            lease_token,
            saga_id,
            step,
            direction: direction.into(),
            outcome: Some(Outcome::Transient(failure)),
        }))
    };
    match command {
        Command::Result(result) if matches!(result.outcome, Some(Outcome::Unknown(_))) => {
            let result = result.clone();
            let direction = result.direction();
            let no = failed(result.saga_id, result.step, direction, result.lease_token);
            saga::decide(state, &no, now, seed)
        }
        Command::AttemptTimedOut {
            step,
            direction,
            token,
            cause: UnknownCause::Timeout,
        } => {
            let name = state.plan().map(|plan| plan.step(*step).name.clone());
            let no = failed(String::new(), name.unwrap_or_default(), *direction, *token);
            saga::decide(state, &no, now, seed)
        }
        _ => saga::decide(state, command, now, seed),
    }
}

/// Forgets one backoff in four.
pub fn losing_timers(state: &SagaState, command: &Command, now: i64, seed: u64) -> Decided {
    match command {
        Command::RetryDue { .. } if seed.is_multiple_of(4) => Ok(Vec::new()),
        _ => saga::decide(state, command, now, seed),
    }
}
