//! What the events of a saga are called. Pure.

use sagamesh_api::saga::v1::transition::Kind;
use sagamesh_api::saga::v1::{
    AbortCause, Direction, Failure, OperatorAction, ParkReason, SagaState, UnknownCause,
};

use crate::output::short;

/// The step and what happened to it, in words.
pub(super) fn describe(kind: &Kind) -> (&str, String) {
    match kind {
        Kind::Started(it) => (
            "",
            format!(
                "started ({}, version {})",
                it.definition,
                it.definition_hash.get(..8).unwrap_or("?")
            ),
        ),
        Kind::Dispatched(it) => (
            &it.step,
            format!("{}, attempt {}", verb(it.direction()), it.attempt),
        ),
        Kind::Succeeded(it) => (
            &it.step,
            if it.direction() == Direction::Compensation {
                "undone"
            } else {
                "done"
            }
            .to_owned(),
        ),
        Kind::Rejected(it) => (&it.step, format!("refused{}", failure(it.failure.as_ref()))),
        Kind::Failed(it) => (&it.step, format!("failed{}", failure(it.failure.as_ref()))),
        Kind::OutcomeUnknown(it) => (
            &it.step,
            format!("outcome unknown: {}", unknown(it.cause())),
        ),
        Kind::Superseded(it) => (
            &it.step,
            "a late result of an earlier attempt was set aside".to_owned(),
        ),
        Kind::RetryScheduled(it) => (
            &it.step,
            format!(
                "waits before the next attempt to {}",
                infinitive(it.direction())
            ),
        ),
        Kind::DelayStarted(it) => (&it.step, "waits for its time".to_owned()),
        Kind::SignalAwaited(it) => (&it.step, "waits for a signal".to_owned()),
        Kind::SignalReceived(it) => ("", format!("signal {} came", it.name)),
        Kind::Aborted(it) => ("", format!("is undone from here: {}", cause(it.cause()))),
        Kind::DeadlineMissed(_) => (
            "",
            "the deadline passed after the point of no return".to_owned(),
        ),
        Kind::Parked(it) => (
            &it.step,
            format!(
                "waits for an operator: {}{}",
                parked(it.reason()),
                failure(it.failure.as_ref())
            ),
        ),
        Kind::Stalled(it) => (&it.step, "takes long; it is still retried".to_owned()),
        Kind::OperatorActed(it) => (
            &it.step,
            format!("{} by {}: {}", acted(it.action()), it.operator, it.reason),
        ),
        Kind::CancelRequested(it) => {
            let who = if it.requester.is_empty() {
                String::new()
            } else {
                format!(" by {}", it.requester)
            };
            let why = if it.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", it.reason)
            };
            ("", format!("cancellation asked for{who}{why}"))
        }
        Kind::Ended(it) => ("", format!("ended {}", ended(it.state()))),
    }
}

fn verb(direction: Direction) -> &'static str {
    if direction == Direction::Compensation {
        "undoing"
    } else {
        "doing"
    }
}

fn infinitive(direction: Direction) -> &'static str {
    if direction == Direction::Compensation {
        "undo it"
    } else {
        "do it"
    }
}

fn ended(state: SagaState) -> &'static str {
    short(state.as_str_name(), "SAGA_STATE_")
}

pub(super) fn failure(failure: Option<&Failure>) -> String {
    match failure {
        Some(failure) if failure.message.is_empty() => format!(": {}", failure.reason),
        Some(failure) => format!(": {} ({})", failure.message, failure.reason),
        None => String::new(),
    }
}

fn unknown(cause: UnknownCause) -> &'static str {
    match cause {
        UnknownCause::Timeout => "no answer within the step's timeout",
        UnknownCause::HeartbeatLost => "the participant fell silent",
        UnknownCause::Reported => "the participant does not know",
        UnknownCause::Unspecified => "no cause given",
    }
}

pub(super) fn cause(cause: AbortCause) -> &'static str {
    match cause {
        AbortCause::Rejected => "a participant said no",
        AbortCause::AttemptsExhausted => "the attempts were used up",
        AbortCause::Cancelled => "it was cancelled",
        AbortCause::Deadline => "the deadline passed",
        AbortCause::SignalTimeout => "a signal did not come in time",
        AbortCause::Operator => "an operator decided so",
        AbortCause::Unspecified => "no cause given",
    }
}

fn parked(reason: ParkReason) -> &'static str {
    match reason {
        ParkReason::CompensationExhausted => "undoing it failed too often",
        ParkReason::CompensationRejected => "the participant refuses to undo it",
        ParkReason::PivotUnknown => "nobody knows whether the point of no return was passed",
        ParkReason::RetriableRejected => {
            "the participant refused a step after the point of no return"
        }
        ParkReason::Unspecified => "no reason given",
    }
}

fn acted(action: OperatorAction) -> &'static str {
    match action {
        OperatorAction::Retry => "tried again",
        OperatorAction::Skip => "given up",
        OperatorAction::ResolveSucceeded => "counted as done",
        OperatorAction::ResolveRejected => "counted as refused",
        OperatorAction::Unspecified => "acted on",
    }
}
