//! Messages as tests write them.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::*;
use tonic::Status;

pub(crate) fn hello(participant: &str, instance: &str, actions: &[&str], credits: u32) -> Hello {
    Hello {
        participant: participant.to_owned(),
        instance: instance.to_owned(),
        actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        credits,
        attempts_in_progress: Vec::new(),
        ..Hello::default()
    }
}

pub(crate) fn result_of(command: &Command, outcome: result::Outcome) -> Result_ {
    Result_ {
        lease_token: command.lease_token,
        saga_id: command.saga_id.clone(),
        step: command.step.clone(),
        direction: command.direction,
        outcome: Some(outcome),
    }
}

/// The message; the name is taken.
pub(crate) type Result_ = sagamesh_api::saga::v1::Result;

pub(crate) fn success(output: &str) -> result::Outcome {
    let output = (!output.is_empty()).then(|| text(output));
    result::Outcome::Success(Success { output })
}

pub(crate) fn failure(reason: &str) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: format!("{reason}, said the test"),
        retry_after: None,
    }
}

pub(crate) fn rejection(reason: &str) -> result::Outcome {
    result::Outcome::Rejection(failure(reason))
}

pub(crate) fn transient(reason: &str) -> result::Outcome {
    result::Outcome::Transient(failure(reason))
}

pub(crate) fn text(text: &str) -> Value {
    Value {
        kind: Some(value::Kind::Text(text.to_owned())),
    }
}

pub(crate) fn millis(millis: i64) -> Option<prost_types::Duration> {
    Some(chassis::timestamp::duration_from_millis(millis))
}

pub(crate) fn start(definition: &str, id: &str) -> StartSagaRequest {
    StartSagaRequest {
        saga_id: id.to_owned(),
        definition: definition.to_owned(),
        input: BTreeMap::from([("order".to_owned(), text("tea"))]),
        search_attributes: BTreeMap::from([("customer".to_owned(), "c1".to_owned())]),
        ..StartSagaRequest::default()
    }
}

pub(crate) fn definition(name: &str, steps: Vec<Step>) -> Definition {
    Definition {
        name: name.to_owned(),
        steps,
        ..Definition::default()
    }
}

/// Attempts come quickly after each other.
pub(crate) fn quick(max_attempts: u32) -> Option<RetryPolicy> {
    Some(RetryPolicy {
        max_attempts,
        initial_backoff: millis(1),
        max_backoff: millis(5),
        multiplier: 1.0,
    })
}

/// A COMPENSATABLE step `name` of a participant, with actions `<name>.do` and `<name>.undo`.
pub(crate) fn step(participant: &str, name: &str, after: &[&str]) -> Step {
    phase_step(Phase::Compensatable, participant, name, after)
}

pub(crate) fn phase_step(phase: Phase, participant: &str, name: &str, after: &[&str]) -> Step {
    let compensation = if phase == Phase::Compensatable {
        format!("{name}.undo")
    } else {
        String::new()
    };
    let call = Call {
        participant: participant.to_owned(),
        action: format!("{name}.do"),
        compensation,
        timeout: millis(10_000),
        retry: quick(3),
        compensation_retry: (phase == Phase::Compensatable).then(|| quick(3)).flatten(),
        input_fields: vec!["order".to_owned()],
        ..Call::default()
    };
    Step {
        name: name.to_owned(),
        phase: phase.into(),
        after: after.iter().map(|after| (*after).to_owned()).collect(),
        kind: Some(step::Kind::Call(call)),
    }
}

/// Changes the call of a step.
pub(crate) fn with_call(mut step: Step, change: impl FnOnce(&mut Call)) -> Step {
    if let Some(step::Kind::Call(call)) = &mut step.kind {
        change(call);
    }
    step
}

pub(crate) fn reason(status: &Status) -> String {
    chassis::problem::reason(status).unwrap_or_default()
}

pub(crate) fn state_of<'a>(saga: &'a Saga, step: &str) -> &'a StepStatus {
    saga.steps
        .iter()
        .find(|status| status.name == step)
        .expect("a step of this name")
}
