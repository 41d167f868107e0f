//! Rules of calls.

use std::collections::BTreeSet;

use sagamesh_api::saga::v1::{Call, Definition, Phase, RetryPolicy};

use super::{DAY, Found, HOUR, lower};
use crate::saga::plan::{after_sets, closure};
use crate::saga::time::duration_millis;

const MAX_ATTEMPTS: u32 = 1_000;

pub(super) fn check(
    found: &mut Found,
    definition: &Definition,
    at: usize,
    phase: Phase,
    call: &Call,
    known: Option<&BTreeSet<String>>,
) {
    let path = format!("steps[{at}].call");
    participant(found, &path, &call.participant, known);
    action(found, format!("{path}.action"), &call.action);
    compensation(found, &path, phase, call);
    found.time(format!("{path}.timeout"), call.timeout.as_ref(), 1, DAY);
    found.time(
        format!("{path}.heartbeat_timeout"),
        call.heartbeat_timeout.as_ref(),
        10,
        HOUR,
    );
    found.time(
        format!("{path}.stalled_after"),
        call.stalled_after.as_ref(),
        1,
        super::YEARS_10,
    );
    if call.stalled_after.is_some() && matches!(phase, Phase::Compensatable | Phase::ReadOnly) {
        found.add(
            format!("{path}.stalled_after"),
            "only counts from the pivot on: leave it out before",
        );
    }
    retry(found, &format!("{path}.retry"), call.retry.as_ref());
    retry(
        found,
        &format!("{path}.compensation_retry"),
        call.compensation_retry.as_ref(),
    );
    input_fields(found, &path, call);
    outputs_of(found, &path, definition, at, call);
}

fn participant(found: &mut Found, path: &str, name: &str, known: Option<&BTreeSet<String>>) {
    let field = format!("{path}.participant");
    if found.letters(&field, name, 63, "[a-z0-9-]", lower)
        && known.is_some_and(|known| !known.contains(name))
    {
        found.add(field, format!("participant {name:?} is not known here: make it known first (OperatorService.PutParticipant)"));
    }
}

fn action(found: &mut Found, field: String, name: &str) {
    let allowed =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '/' | '-');
    found.letters(field, name, 127, "[A-Za-z0-9._/-]", allowed);
}

fn compensation(found: &mut Found, path: &str, phase: Phase, call: &Call) {
    let field = format!("{path}.compensation");
    match phase {
        Phase::Compensatable if call.compensation.is_empty() => {
            found.add(
                field,
                "is missing: a COMPENSATABLE step names the action that undoes it",
            );
        }
        Phase::Compensatable => action(found, field, &call.compensation),
        Phase::Unspecified => {}
        _ => {
            if !call.compensation.is_empty() {
                found.add(
                    field,
                    format!(
                        "a {} step is never undone: leave it out, or make the step COMPENSATABLE",
                        super::graph::phase_name(phase)
                    ),
                );
            }
            if call.compensation_retry.is_some() {
                found.add(
                    format!("{path}.compensation_retry"),
                    "the step has no compensation: leave it out",
                );
            }
        }
    }
}

fn retry(found: &mut Found, path: &str, policy: Option<&RetryPolicy>) {
    let Some(policy) = policy else {
        return;
    };
    if policy.max_attempts > MAX_ATTEMPTS {
        found.add(
            format!("{path}.max_attempts"),
            format!("{} is more than 1,000 attempts", policy.max_attempts),
        );
    }
    let initial = found.time(
        format!("{path}.initial_backoff"),
        policy.initial_backoff.as_ref(),
        1,
        HOUR,
    );
    let max = found.time(
        format!("{path}.max_backoff"),
        policy.max_backoff.as_ref(),
        1,
        DAY,
    );
    let normal =
        |time: Option<&prost_types::Duration>, default| time.map_or(default, duration_millis);
    let unset_initial = policy.initial_backoff.is_none();
    if max
        && (initial || unset_initial)
        && normal(policy.max_backoff.as_ref(), 0) < normal(policy.initial_backoff.as_ref(), 100)
    {
        found.add(
            format!("{path}.max_backoff"),
            "is less than initial_backoff (100 ms when unset)",
        );
    }
    if policy.multiplier != 0.0 && !(1.0..=10.0).contains(&policy.multiplier) {
        found.add(
            format!("{path}.multiplier"),
            format!(
                "{} is not from 1.0 to 10.0, nor 0 for the default",
                policy.multiplier
            ),
        );
    }
}

fn input_fields(found: &mut Found, path: &str, call: &Call) {
    let mut seen = BTreeSet::new();
    for (place, name) in call.input_fields.iter().enumerate() {
        let field = format!("{path}.input_fields[{place}]");
        let allowed =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        found.letters(&field, name, 63, "[a-z0-9_]", allowed);
        if !seen.insert(name) {
            found.add(field, format!("{name:?} is listed twice"));
        }
    }
}

fn outputs_of(found: &mut Found, path: &str, definition: &Definition, at: usize, call: &Call) {
    if call.outputs_of.is_empty() {
        return;
    }
    let ancestors = closure(&after_sets(definition))[at];
    let mut seen = BTreeSet::new();
    for (place, name) in call.outputs_of.iter().enumerate() {
        let field = format!("{path}.outputs_of[{place}]");
        match definition.steps.iter().position(|step| step.name == *name) {
            None => found.add(&field, format!("no step is named {name:?}")),
            Some(other) if other == at || ancestors.0 & (1 << other) == 0 => {
                found.add(
                    &field,
                    format!(
                        "step {name:?} does not come before this one: its output would not be known"
                    ),
                );
            }
            Some(_) => {}
        }
        if !seen.insert(name) {
            found.add(field, format!("{name:?} is listed twice"));
        }
    }
}
