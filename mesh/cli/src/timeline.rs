//! Draws the history of one saga: a bar for every attempt on one axis of time, and below it every event. Pure.

mod words;

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::transition::Kind;
use sagamesh_api::saga::v1::{Direction, Saga, SagaEvent, StepState, Transition};

use crate::output::{millis, short, span};
use words::{cause, describe, failure};

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

#[cfg(test)]
mod tests;
