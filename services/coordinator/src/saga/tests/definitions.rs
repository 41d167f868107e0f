//! Validation.

use std::collections::BTreeSet;

use prost_types::Duration;
use sagamesh_api::saga::v1::{Call, Definition, Delay, RetryPolicy, Signal, step};

use super::harness::*;
use crate::saga::time::duration;
use crate::saga::{Plan, validate};

pub(super) fn good() -> Definition {
    definition(vec![
        call("a", Compensatable, &[]),
        call("b", ReadOnly, &[]),
        call("p", Pivot, &["a", "b"]),
        call("r", Retriable, &["p"]),
    ])
}

pub(super) fn call_of(definition: &mut Definition, step: usize) -> &mut Call {
    match &mut definition.steps[step].kind {
        Some(step::Kind::Call(call)) => call,
        _ => panic!("a call"),
    }
}

/// Breaks a good definition, and expects exactly one violation.
fn broken(change: impl FnOnce(&mut Definition), field: &str, words: &str) {
    let mut definition = good();
    change(&mut definition);
    let violations = validate(&definition, None);
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(violations[0].field, field);
    assert!(
        violations[0].description.contains(words),
        "{}",
        violations[0].description
    );
    assert!(Plan::compile(&definition).is_err());
}

#[test]
fn a_good_definition() {
    assert_eq!(validate(&good(), None), []);
    let known = BTreeSet::from(["p".to_owned()]);
    assert_eq!(validate(&good(), Some(&known)), []);
    let violations = validate(&good(), Some(&BTreeSet::new()));
    assert_eq!(violations.len(), 4);
    assert_eq!(violations[0].field, "steps[0].call.participant");
    assert!(violations[0].description.contains("not known"));
}

#[test]
fn names() {
    broken(|d| d.name = String::new(), "name", "is missing");
    broken(|d| d.name = "Upper".into(), "name", "[a-z0-9-]");
    broken(|d| d.name = "1st".into(), "name", "start with a letter");
    broken(|d| d.name = "x".repeat(64), "name", "1 to 63");
    broken(
        |d| d.steps[3].name = "r_".into(),
        "steps[3].name",
        "[a-z0-9-]",
    );
    broken(
        |d| d.steps.push(call("r", Retriable, &["p"])),
        "steps[4].name",
        "steps[3]",
    );
    broken(
        |d| d.description = "ü".repeat(1_001),
        "description",
        "1,000",
    );
    let mut long = good();
    long.description = "ü".repeat(1_000);
    assert_eq!(validate(&long, None), [], "characters, not bytes");
}

#[test]
fn sizes() {
    broken(|d| d.steps.clear(), "steps", "1 to 64");
    broken(
        |d| {
            d.steps = (0..65)
                .map(|at| call(&format!("s{at}"), Compensatable, &[]))
                .collect()
        },
        "steps",
        "65",
    );
    let many = definition(
        (0..64)
            .map(|at| call(&format!("s{at}"), Compensatable, &[]))
            .collect(),
    );
    assert_eq!(validate(&many, None), []);
    let mut huge = good();
    call_of(&mut huge, 0).input_fields = (0..9_000)
        .map(|at| format!("field_number_{at}_that_is_quite_long_to_fill"))
        .collect();
    assert_eq!(validate(&huge, None)[0].field, "");
}

#[test]
fn phases() {
    broken(|d| d.steps[1].phase = 0, "steps[1].phase", "is missing");
    broken(|d| d.steps[1].phase = 99, "steps[1].phase", "99");
    broken(
        |d| d.steps[3].kind = Some(step::Kind::Delay(Delay { duration: None })),
        "steps[3].delay.duration",
        "is missing",
    );
    broken(|d| d.steps[3].kind = None, "steps[3]", "no kind");
    let wait = step::Kind::Delay(Delay {
        duration: Some(duration(5)),
    });
    broken(
        |d| d.steps[0].kind = Some(wait.clone()),
        "steps[0].phase",
        "READ_ONLY or RETRIABLE",
    );
    broken(
        |d| d.steps[2].kind = Some(wait.clone()),
        "steps[2].phase",
        "READ_ONLY or RETRIABLE",
    );
    let signal = Signal {
        name: "go".into(),
        timeout: None,
    };
    broken(
        |d| d.steps[0].kind = Some(step::Kind::Signal(signal.clone())),
        "steps[0].phase",
        "READ_ONLY or RETRIABLE",
    );
    let mut waits = good();
    waits.steps[1].kind = Some(wait);
    waits.steps[3].kind = Some(step::Kind::Signal(signal));
    assert_eq!(validate(&waits, None), []);
}

#[test]
fn the_side_of_the_pivot() {
    broken(
        |d| d.steps.push(call("q", Pivot, &["p"])),
        "steps[4].phase",
        "\"p\" is the pivot already",
    );
    broken(
        |d| d.steps.push(call("c", Compensatable, &[])),
        "steps[4].phase",
        "must come after it",
    );
    broken(
        |d| d.steps.push(call("c", Compensatable, &["r"])),
        "steps[4].phase",
        "must come after it",
    );
    broken(
        |d| d.steps.push(call("c", ReadOnly, &[])),
        "steps[4].phase",
        "READ_ONLY",
    );
    broken(
        |d| d.steps.push(call("c", Retriable, &["a"])),
        "steps[4].phase",
        "must come after the pivot",
    );
    let none = definition(vec![
        call("a", Compensatable, &[]),
        call("r", Retriable, &["a"]),
    ]);
    let violations = validate(&none, None);
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, "steps[1].phase");
    assert!(violations[0].description.contains("no PIVOT"));
}

#[test]
fn the_order_of_steps() {
    broken(
        |d| d.steps[3].after.push("ghost".into()),
        "steps[3].after[1]",
        "\"ghost\"",
    );
    broken(
        |d| d.steps[3].after.push("p".into()),
        "steps[3].after[1]",
        "twice",
    );
    broken(
        |d| d.steps[3].after.push("r".into()),
        "steps[3].after",
        "r -> r",
    );
    broken(
        |d| d.steps[0].after.push("r".into()),
        "steps[0].after",
        "a -> r -> p -> a",
    );
    let ring = definition(vec![
        call("x", Compensatable, &[]),
        call("a", Compensatable, &["x", "c"]),
        call("b", Compensatable, &["a"]),
        call("c", Compensatable, &["b"]),
    ]);
    let violations = validate(&ring, None);
    assert_eq!(violations.len(), 1);
    assert!(
        violations[0].description.ends_with("a -> c -> b -> a"),
        "{}",
        violations[0].description
    );
}

#[test]
fn calls() {
    broken(
        |d| call_of(d, 0).participant = String::new(),
        "steps[0].call.participant",
        "is missing",
    );
    broken(
        |d| call_of(d, 0).participant = "P p".into(),
        "steps[0].call.participant",
        "[a-z0-9-]",
    );
    broken(
        |d| call_of(d, 0).action = String::new(),
        "steps[0].call.action",
        "is missing",
    );
    broken(
        |d| call_of(d, 0).action = "do it".into(),
        "steps[0].call.action",
        "[A-Za-z0-9._/-]",
    );
    broken(
        |d| call_of(d, 0).action = "x".repeat(128),
        "steps[0].call.action",
        "127",
    );
    broken(
        |d| call_of(d, 0).compensation = String::new(),
        "steps[0].call.compensation",
        "is missing",
    );
    broken(
        |d| call_of(d, 0).compensation = "a b".into(),
        "steps[0].call.compensation",
        "[A-Za-z0-9._/-]",
    );
    for (step, phase) in [(1, "READ_ONLY"), (2, "PIVOT"), (3, "RETRIABLE")] {
        broken(
            |d| call_of(d, step).compensation = "undo".into(),
            &format!("steps[{step}].call.compensation"),
            phase,
        );
    }
    broken(
        |d| call_of(d, 3).compensation_retry = Some(RetryPolicy::default()),
        "steps[3].call.compensation_retry",
        "no compensation",
    );
    broken(
        |d| call_of(d, 0).stalled_after = Some(duration(5)),
        "steps[0].call.stalled_after",
        "pivot",
    );
    broken(
        |d| call_of(d, 0).input_fields = vec!["Not".into()],
        "steps[0].call.input_fields[0]",
        "[a-z0-9_]",
    );
    broken(
        |d| call_of(d, 0).input_fields = vec!["x".into(), "x".into()],
        "steps[0].call.input_fields[1]",
        "twice",
    );
}

#[test]
fn outputs_come_from_earlier_steps() {
    let field = "steps[2].call.outputs_of[0]";
    broken(
        |d| call_of(d, 2).outputs_of = vec!["ghost".into()],
        field,
        "no step",
    );
    broken(
        |d| call_of(d, 2).outputs_of = vec!["r".into()],
        field,
        "does not come before",
    );
    broken(
        |d| call_of(d, 2).outputs_of = vec!["p".into()],
        field,
        "does not come before",
    );
    broken(
        |d| call_of(d, 0).outputs_of = vec!["b".into()],
        "steps[0].call.outputs_of[0]",
        "does not come before",
    );
    broken(
        |d| call_of(d, 2).outputs_of = vec!["a".into(), "a".into()],
        "steps[2].call.outputs_of[1]",
        "twice",
    );
    let mut distant = good();
    call_of(&mut distant, 3).outputs_of = vec!["a".into()];
    assert_eq!(validate(&distant, None), [], "any ancestor will do");
}

#[test]
fn times() {
    let bad = [
        Duration {
            seconds: 0,
            nanos: 999_999,
        },
        Duration {
            seconds: -1,
            nanos: 0,
        },
        Duration {
            seconds: 1,
            nanos: -1,
        },
        Duration {
            seconds: 1,
            nanos: 1_000_000_000,
        },
        Duration {
            seconds: i64::MAX,
            nanos: 0,
        },
    ];
    for time in bad {
        broken(
            |d| d.deadline = Some(time),
            "deadline",
            "from 1 ms to 10 years",
        );
        broken(
            |d| d.retention = Some(time),
            "retention",
            "from 1 second to 10 years",
        );
        broken(
            |d| call_of(d, 0).timeout = Some(time),
            "steps[0].call.timeout",
            "from 1 ms to 1 day",
        );
        broken(
            |d| call_of(d, 0).heartbeat_timeout = Some(time),
            "steps[0].call.heartbeat_timeout",
            "from 10 ms to 1 hour",
        );
        broken(
            |d| call_of(d, 2).stalled_after = Some(time),
            "steps[2].call.stalled_after",
            "10 years",
        );
        let kind = step::Kind::Delay(Delay {
            duration: Some(time),
        });
        broken(
            |d| d.steps[1].kind = Some(kind),
            "steps[1].delay.duration",
            "10 years",
        );
        let kind = step::Kind::Signal(Signal {
            name: "go".into(),
            timeout: Some(time),
        });
        broken(
            |d| d.steps[1].kind = Some(kind),
            "steps[1].signal.timeout",
            "10 years",
        );
    }
    broken(
        |d| d.retention = Some(duration(999)),
        "retention",
        "1 second",
    );
    broken(
        |d| call_of(d, 0).timeout = Some(duration(86_400_001)),
        "steps[0].call.timeout",
        "1 day",
    );
    broken(
        |d| call_of(d, 0).heartbeat_timeout = Some(duration(9)),
        "steps[0].call.heartbeat_timeout",
        "10 ms",
    );
    let kind = step::Kind::Signal(Signal {
        name: "Go!".into(),
        timeout: None,
    });
    broken(
        |d| d.steps[1].kind = Some(kind),
        "steps[1].signal.name",
        "[a-z0-9-]",
    );
}

#[test]
fn retries() {
    let with = |change: fn(&mut RetryPolicy)| {
        move |d: &mut Definition| {
            let policy = call_of(d, 0).retry.get_or_insert_default();
            change(policy);
        }
    };
    broken(
        with(|r| r.max_attempts = 1_001),
        "steps[0].call.retry.max_attempts",
        "1,000",
    );
    broken(
        with(|r| r.initial_backoff = Some(duration(3_600_001))),
        "steps[0].call.retry.initial_backoff",
        "1 hour",
    );
    broken(
        with(|r| r.max_backoff = Some(duration(86_400_001))),
        "steps[0].call.retry.max_backoff",
        "1 day",
    );
    broken(
        with(|r| r.max_backoff = Some(duration(99))),
        "steps[0].call.retry.max_backoff",
        "less than initial_backoff",
    );
    for multiplier in [
        0.99,
        10.01,
        -1.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        let mut definition = good();
        call_of(&mut definition, 0).compensation_retry = Some(RetryPolicy {
            multiplier,
            ..RetryPolicy::default()
        });
        let violations = validate(&definition, None);
        assert_eq!(violations.len(), 1, "{multiplier}");
        assert_eq!(
            violations[0].field,
            "steps[0].call.compensation_retry.multiplier"
        );
    }
}

#[test]
fn all_violations_are_named_at_once() {
    let mut definition = good();
    definition.name = String::new();
    call_of(&mut definition, 0).compensation = String::new();
    call_of(&mut definition, 3).action = String::new();
    assert_eq!(validate(&definition, None).len(), 3);
}
