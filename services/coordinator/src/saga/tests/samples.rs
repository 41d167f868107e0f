//! Definitions, outcomes and commands for tests, and records in short.

use std::collections::BTreeMap;
use std::sync::Arc;

use sagamesh_api::saga::v1::{
    self as pb, Call, Definition, Direction, Failure, Phase, RetryPolicy, Step, Success,
    Transition, Value, result, step, transition::Kind as T, value,
};

use crate::saga::time::duration;
use crate::saga::{Command, Plan, Start};

pub(super) use sagamesh_api::saga::v1::Direction::{Action, Compensation};
pub(super) use sagamesh_api::saga::v1::Phase::{Compensatable, Pivot, ReadOnly, Retriable};

/// When sagas under test start.
pub(super) const NOW: i64 = 1_000_000;

pub(super) fn text(text: &str) -> Value {
    Value {
        kind: Some(value::Kind::Text(text.to_owned())),
    }
}

pub(super) fn failure(reason: &str) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: format!("because of {reason}"),
        retry_after: None,
    }
}

/// A call of participant `p`, two attempts each way.
pub(super) fn call(name: &str, phase: Phase, after: &[&str]) -> Step {
    let retry = Some(RetryPolicy {
        max_attempts: 2,
        ..RetryPolicy::default()
    });
    let undoable = phase == Compensatable;
    step_of(
        name,
        phase,
        after,
        step::Kind::Call(Call {
            participant: "p".into(),
            action: format!("do.{name}"),
            compensation: if undoable {
                format!("undo.{name}")
            } else {
                String::new()
            },
            retry,
            compensation_retry: retry.filter(|_| undoable),
            ..Call::default()
        }),
    )
}

pub(super) fn delay(name: &str, phase: Phase, after: &[&str], millis: i64) -> Step {
    let duration = Some(duration(millis));
    step_of(
        name,
        phase,
        after,
        step::Kind::Delay(pb::Delay { duration }),
    )
}

/// Waits for the signal `signal`.
pub(super) fn signal(
    name: &str,
    phase: Phase,
    after: &[&str],
    signal: &str,
    timeout: Option<i64>,
) -> Step {
    let timeout = timeout.map(duration);
    step_of(
        name,
        phase,
        after,
        step::Kind::Signal(pb::Signal {
            name: signal.into(),
            timeout,
        }),
    )
}

fn step_of(name: &str, phase: Phase, after: &[&str], kind: step::Kind) -> Step {
    Step {
        name: name.into(),
        phase: phase.into(),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        kind: Some(kind),
    }
}

pub(super) fn definition(steps: Vec<Step>) -> Definition {
    Definition {
        name: "test".into(),
        steps,
        ..Definition::default()
    }
}

pub(super) fn plan(steps: Vec<Step>) -> Arc<Plan> {
    Arc::new(Plan::compile(&definition(steps)).expect("a valid definition"))
}

/// a and b at the same time, then the pivot p, then r and s at the same time.
pub(super) fn diamond() -> Arc<Plan> {
    plan(vec![
        call("a", Compensatable, &[]),
        call("b", Compensatable, &[]),
        call("p", Pivot, &["a", "b"]),
        call("r", Retriable, &["p"]),
        call("s", Retriable, &["p"]),
    ])
}

/// a, then b, then c, all COMPENSATABLE.
pub(super) fn chain() -> Arc<Plan> {
    plan(vec![
        call("a", Compensatable, &[]),
        call("b", Compensatable, &["a"]),
        call("c", Compensatable, &["b"]),
    ])
}

pub(super) fn start(plan: &Arc<Plan>) -> Start {
    Start {
        input: BTreeMap::from([("x".to_owned(), text("1")), ("y".to_owned(), text("2"))]),
        search_attributes: BTreeMap::from([("customer".to_owned(), "7".to_owned())]),
        traceparent: "00-1-2-01".into(),
        ..Start::plain(plan)
    }
}

pub(super) fn success(output: &str) -> result::Outcome {
    result::Outcome::Success(Success {
        output: Some(text(output)),
    })
}

pub(super) fn rejection(reason: &str) -> result::Outcome {
    result::Outcome::Rejection(failure(reason))
}

pub(super) fn transient(reason: &str) -> result::Outcome {
    result::Outcome::Transient(failure(reason))
}

pub(super) fn unknown(reason: &str) -> result::Outcome {
    result::Outcome::Unknown(failure(reason))
}

pub(super) fn cancel() -> Command {
    Command::Cancel {
        requester: "bob".into(),
        reason: "changed my mind".into(),
    }
}

pub(super) fn send_signal(name: &str, id: &str) -> Command {
    Command::Signal {
        name: name.into(),
        signal_id: id.into(),
        payload: Some(text(id)),
    }
}

/// A transition in short.
pub(super) fn show(transition: &Transition) -> String {
    let way = |direction: Direction| {
        if direction == Compensation {
            "undo "
        } else {
            ""
        }
    };
    match transition.kind.as_ref().expect("a kind") {
        T::Started(_) => "started".into(),
        T::Dispatched(it) => format!("{}{} {}", way(it.direction()), it.step, it.attempt),
        T::Succeeded(it) => format!("{}{} done", way(it.direction()), it.step),
        T::Rejected(it) => format!("{}{} rejected", way(it.direction()), it.step),
        T::Failed(it) => format!("{}{} failed", way(it.direction()), it.step),
        T::OutcomeUnknown(it) => format!("{}{} unknown", way(it.direction()), it.step),
        T::Superseded(it) => format!("{}{} superseded", way(it.direction()), it.step),
        T::RetryScheduled(it) => format!("{}{} backs off", way(it.direction()), it.step),
        T::DelayStarted(it) => format!("{} delays", it.step),
        T::SignalAwaited(it) => format!("{} awaits", it.step),
        T::SignalReceived(it) => format!("signal {}", it.name),
        T::Aborted(it) => format!(
            "aborted {} {}",
            it.cause().as_str_name().trim_start_matches("ABORT_CAUSE_"),
            it.step
        )
        .trim_end()
        .into(),
        T::DeadlineMissed(_) => "deadline missed".into(),
        T::Parked(it) => format!(
            "{}{} parked {}",
            way(it.direction()),
            it.step,
            it.reason().as_str_name().trim_start_matches("PARK_REASON_")
        ),
        T::Stalled(it) => format!("{} stalled", it.step),
        T::OperatorActed(it) => format!(
            "{}{} {}",
            way(it.direction()),
            it.step,
            it.action()
                .as_str_name()
                .trim_start_matches("OPERATOR_ACTION_")
        ),
        T::CancelRequested(_) => "cancel".into(),
        T::Ended(it) => format!(
            "ended {}",
            it.state().as_str_name().trim_start_matches("SAGA_STATE_")
        ),
    }
}
