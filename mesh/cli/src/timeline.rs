//! Draws the history of one saga: a bar for every attempt on one axis of time, and below it every event. Pure.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::transition::Kind;
use sagamesh_api::saga::v1::{
    AbortCause, Direction, Failure, OperatorAction, ParkReason, Saga, SagaEvent, SagaState,
    StepState, Transition, UnknownCause,
};

use crate::output::{millis, short, span};

/// Columns of the axis.
const WIDTH: usize = 44;

/// The whole picture of a saga, without a line break at its end.
pub(crate) fn draw(saga: &Saga, events: &[SagaEvent]) -> String {
    let mut lines = headline(saga, events);
    lines.push(String::new());
    lines.extend(bars(saga, events));
    lines.push(String::new());
    let begin = begin(events);
    for event in events {
        lines.extend(event_lines(event, begin));
    }
    lines.join("\n")
}

/// The lines of one event; `begin` is the time of the first one.
pub(crate) fn event_lines(event: &SagaEvent, begin: i64) -> Vec<String> {
    let at = at(event).map_or_else(String::new, |at| format!("+{}", span(at - begin)));
    event
        .transitions
        .iter()
        .filter_map(|transition| transition.kind.as_ref())
        .map(|kind| {
            let (step, what) = describe(kind);
            format!("  {at:>10}  {step:<18} {what}")
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// When the first event was decided, in milliseconds.
pub(crate) fn begin(events: &[SagaEvent]) -> i64 {
    events.first().and_then(at).unwrap_or(0)
}

fn at(event: &SagaEvent) -> Option<i64> {
    event.event_time.as_ref().map(millis)
}

fn headline(saga: &Saga, events: &[SagaEvent]) -> Vec<String> {
    let state = short(saga.state().as_str_name(), "SAGA_STATE_");
    let begin = begin(events);
    let end = events.last().and_then(at).unwrap_or(begin);
    let took = if saga.end_time.is_some() {
        format!("{state} after {}", span(end - begin))
    } else {
        format!("{state}, still open")
    };
    let mut lines = vec![format!(
        "saga {}  {}  {took}",
        saga.saga_id, saga.definition
    )];
    if let Some(aborted) = &saga.aborted {
        let step = if aborted.step.is_empty() {
            String::new()
        } else {
            format!(" at {}", aborted.step)
        };
        let cause = cause(aborted.cause());
        lines.push(format!(
            "undone because {cause}{step}{}",
            failure(aborted.failure.as_ref())
        ));
    }
    if !saga.leftovers.is_empty() {
        lines.push(format!(
            "left over, given up by an operator: {}",
            saga.leftovers.join(", ")
        ));
    }
    lines
}

/// One attempt of a step.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    direction: Direction,
    from: i64,
    to: Option<i64>,
    end: char,
}

fn bars(saga: &Saga, events: &[SagaEvent]) -> Vec<String> {
    let begin = begin(events);
    let last = events.last().and_then(at).unwrap_or(begin);
    let length = (last - begin).max(1);
    let attempts = attempts(events);
    let names: Vec<&str> = saga.steps.iter().map(|step| step.name.as_str()).collect();
    let widest = names
        .iter()
        .map(|name| name.len())
        .max()
        .unwrap_or(4)
        .max(4);
    let mut lines = vec![format!(
        "  {:<widest$}  0{:>right$}",
        "step",
        span(length),
        right = WIDTH - 1
    )];
    for step in &saga.steps {
        let own = attempts
            .get(step.name.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut row = vec!['·'; WIDTH];
        for attempt in own {
            paint(&mut row, attempt, begin, length);
        }
        for attempt in own {
            mark(&mut row, attempt, begin, length);
        }
        let row: String = row.into_iter().collect();
        lines.push(
            format!(
                "  {:<widest$}  {row}  {}",
                step.name,
                state(step.state(), own)
            )
            .trim_end()
            .to_owned(),
        );
    }
    let undone = attempts
        .values()
        .flatten()
        .any(|attempt| attempt.direction == Direction::Compensation);
    if undone {
        lines.push(format!(
            "  {:<widest$}  █ doing  ░ undoing  ✖ refused  ! failed  ? unknown outcome",
            ""
        ));
    } else if attempts
        .values()
        .flatten()
        .any(|attempt| attempt.end != '█')
    {
        lines.push(format!(
            "  {:<widest$}  █ doing  ✖ refused  ! failed  ? unknown outcome",
            ""
        ));
    }
    lines
}

/// The bar of an attempt.
fn paint(row: &mut [char], attempt: &Attempt, begin: i64, length: i64) {
    let body = if attempt.direction == Direction::Compensation {
        '░'
    } else {
        '█'
    };
    let first = column(attempt.from, begin, length);
    let last = attempt.to.map_or(WIDTH - 1, |to| column(to, begin, length));
    // A clock that was set back must not hide the attempt.
    row[first..=last.max(first)].fill(body);
}

/// How an attempt ended, unless it ended well; no later bar hides it.
fn mark(row: &mut [char], attempt: &Attempt, begin: i64, length: i64) {
    if let Some(to) = attempt.to
        && !matches!(attempt.end, '█' | '░')
    {
        row[column(to, begin, length)] = attempt.end;
    }
}

/// The column of a time: always within the row.
fn column(at: i64, begin: i64, length: i64) -> usize {
    let scaled = (at - begin).clamp(0, length) * i64::try_from(WIDTH - 1).unwrap_or(1) / length;
    usize::try_from(scaled).unwrap_or(0)
}

fn state(state: StepState, attempts: &[Attempt]) -> String {
    let name = short(state.as_str_name(), "STEP_STATE_")
        .to_lowercase()
        .replace('_', " ");
    let of = |direction| {
        attempts
            .iter()
            .filter(|attempt| attempt.direction == direction)
            .count()
    };
    match (of(Direction::Action), of(Direction::Compensation)) {
        (0 | 1, 0 | 1) => name,
        (actions, 0 | 1) => format!("{name}, {actions} attempts"),
        (0 | 1, compensations) => format!("{name}, {compensations} attempts to undo"),
        (actions, compensations) => format!("{name}, {actions} attempts, {compensations} to undo"),
    }
}

fn attempts(events: &[SagaEvent]) -> BTreeMap<&str, Vec<Attempt>> {
    let mut attempts: BTreeMap<&str, Vec<Attempt>> = BTreeMap::new();
    for event in events {
        let at = at(event).unwrap_or(0);
        for Transition { kind } in &event.transitions {
            let mut close = |step: &str, direction: Direction, end: char| {
                let open = attempts.get_mut(step).and_then(|own| {
                    own.iter_mut()
                        .rev()
                        .find(|attempt| attempt.direction == direction && attempt.to.is_none())
                });
                if let Some(attempt) = open {
                    (attempt.to, attempt.end) = (Some(at), end);
                }
            };
            match kind {
                Some(Kind::Dispatched(it)) => {
                    let end = if it.direction() == Direction::Compensation {
                        '░'
                    } else {
                        '█'
                    };
                    let attempt = Attempt {
                        direction: it.direction(),
                        from: at,
                        to: None,
                        end,
                    };
                    attempts.entry(&it.step).or_default().push(attempt);
                }
                Some(Kind::DelayStarted(it)) => {
                    attempts.entry(&it.step).or_default().push(Attempt {
                        direction: Direction::Action,
                        from: at,
                        to: None,
                        end: '█',
                    });
                }
                Some(Kind::SignalAwaited(it)) => {
                    attempts.entry(&it.step).or_default().push(Attempt {
                        direction: Direction::Action,
                        from: at,
                        to: None,
                        end: '█',
                    });
                }
                Some(Kind::Succeeded(it)) => close(
                    &it.step,
                    it.direction(),
                    if it.direction() == Direction::Action {
                        '█'
                    } else {
                        '░'
                    },
                ),
                Some(Kind::Rejected(it)) => close(&it.step, it.direction(), '✖'),
                Some(Kind::Failed(it)) => close(&it.step, it.direction(), '!'),
                Some(Kind::OutcomeUnknown(it)) => close(&it.step, it.direction(), '?'),
                _ => {}
            }
        }
    }
    attempts
}

/// The step and what happened to it, in words.
fn describe(kind: &Kind) -> (&str, String) {
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

fn failure(failure: Option<&Failure>) -> String {
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

fn cause(cause: AbortCause) -> &'static str {
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

#[cfg(test)]
mod tests;
