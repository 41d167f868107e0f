//! What a participant is told.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::{self as pb, Aborted, Direction, Phase, Value, value};

use super::plan::{CallPlan, Plan, StepIndex};
use super::state::{Run, SagaState};
use super::time::{duration, timestamp};

/// Reserved input field of compensations: why the saga is undone, in UPPER_SNAKE_CASE.
pub const ABORT_REASON_FIELD: &str = "saga.abort_reason";
/// Reserved input field of compensations: why the saga is undone, for people.
pub const ABORT_MESSAGE_FIELD: &str = "saga.abort_message";

/// The message for the newest attempt of a step, as it is written to a stream at `now`. `None` where there is no such attempt.
pub fn build_command(
    saga_id: &str,
    state: &SagaState,
    step: StepIndex,
    direction: Direction,
    now: i64,
) -> Option<pb::Command> {
    let run = state.run.as_deref()?;
    let (attempt, lease_token) = state.newest_attempt(step, direction)?;
    let plan = run.plan.step(step);
    let call = plan.call()?;
    let compensates = direction == Direction::Compensation;
    let mut command = pb::Command {
        lease_token,
        saga_id: saga_id.to_owned(),
        step: plan.name.clone(),
        direction: direction.into(),
        action: if compensates {
            call.compensation.clone()?
        } else {
            call.action.clone()
        },
        attempt,
        timeout: Some(duration(call.timeout_millis)),
        input: input(run, call),
        outputs: outputs(&run.plan, state, call),
        traceparent: run.traceparent.clone(),
        heartbeat_timeout: call.heartbeat_timeout_millis.map(duration),
        ..pb::Command::default()
    };
    if compensates {
        command.action_output = state.output(step).cloned();
        if let Some(aborted) = &run.aborted {
            command.input.extend(abort_fields(aborted));
        }
    } else {
        command.not_after_time = Some(timestamp(not_after(run, call, plan.phase, now)));
    }
    Some(command)
}

/// After this the coordinator no longer waits for the attempt; before the pivot also not beyond the saga's deadline.
fn not_after(run: &Run, call: &CallPlan, phase: Phase, now: i64) -> i64 {
    let end = now.saturating_add(call.timeout_millis);
    match run.core.deadline {
        Some(deadline) if matches!(phase, Phase::Compensatable | Phase::ReadOnly) => {
            end.min(deadline)
        }
        _ => end,
    }
}

fn input(run: &Run, call: &CallPlan) -> BTreeMap<String, Value> {
    let listed = call
        .input_fields
        .iter()
        .filter_map(|field| run.input.get_key_value(field));
    listed
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect()
}

fn outputs(plan: &Plan, state: &SagaState, call: &CallPlan) -> BTreeMap<String, Value> {
    let known = call
        .outputs_of
        .iter()
        .filter_map(|step| Some((*step, state.output(*step)?)));
    known
        .map(|(step, value)| (plan.step(step).name.clone(), value.clone()))
        .collect()
}

fn abort_fields(aborted: &Aborted) -> [(String, Value); 2] {
    let cause = || {
        aborted
            .cause()
            .as_str_name()
            .trim_start_matches("ABORT_CAUSE_")
            .to_owned()
    };
    let (reason, message) = match &aborted.failure {
        Some(failure) if !failure.reason.is_empty() => {
            (failure.reason.clone(), failure.message.clone())
        }
        Some(failure) => (cause(), failure.message.clone()),
        None => (cause(), String::new()),
    };
    [
        (ABORT_REASON_FIELD.to_owned(), text(reason)),
        (ABORT_MESSAGE_FIELD.to_owned(), text(message)),
    ]
}

fn text(text: String) -> Value {
    Value {
        kind: Some(value::Kind::Text(text)),
    }
}
