//! Normalisation, hashes, and compiled plans.

use std::collections::BTreeSet;

use sagamesh_api::saga::v1::{Definition, Delay, RetryPolicy, Signal, Step, step};

use super::definitions::{call_of, good};
use super::harness::*;
use crate::saga::time::duration;
use crate::saga::{Plan, Retry, hash, normalise, validate};

#[test]
fn defaults_are_filled_and_stay() {
    let mut content = good();
    for at in 0..4 {
        call_of(&mut content, at).retry = None;
        call_of(&mut content, at).compensation_retry = None;
    }
    let normal = normalise(&content);
    assert_eq!(normalise(&normal), normal);
    let plan = Plan::compile(&content).expect("valid");
    assert_eq!(plan.definition(), &normal);
    assert_eq!(plan.retention_millis(), 7 * 86_400_000);
    assert_eq!(plan.deadline_millis(), None);
    let first = plan.step(0).call().expect("a call");
    assert_eq!(first.timeout_millis, 10_000);
    let policy = Retry {
        max_attempts: 5,
        initial_millis: 100,
        max_millis: 30_000,
        multiplier: 2.0,
    };
    assert_eq!(first.retry, policy);
    assert_eq!(
        first.compensation_retry,
        Retry {
            max_attempts: 10,
            ..policy
        }
    );
    assert_eq!(
        plan.step(2).call().map(|call| call.stalled_after_millis),
        Some(300_000)
    );
    assert_eq!(plan.pivot(), Some(2));
    // A default never contradicts what was set.
    call_of(&mut content, 0).retry = Some(RetryPolicy {
        initial_backoff: Some(duration(60_000)),
        ..RetryPolicy::default()
    });
    assert_eq!(validate(&content, None), []);
    assert_eq!(validate(&normalise(&content), None), []);
}

#[test]
fn the_hash_names_the_content() {
    let first = hash(&good());
    assert_eq!(first.len(), 64);
    assert!(
        first
            .chars()
            .all(|digit| digit.is_ascii_digit() || ('a'..='f').contains(&digit))
    );
    assert_eq!(hash(&normalise(&good())), first, "defaults are content");
    let mut reordered = good();
    reordered.steps[2].after.reverse();
    assert_eq!(hash(&reordered), first, "`after` is a set");
    let mut seen = BTreeSet::from([first]);
    let mut differs = |change: &dyn Fn(&mut Definition)| {
        let mut definition = good();
        change(&mut definition);
        assert!(
            seen.insert(hash(&definition)),
            "another content, another hash"
        );
    };
    differs(&|d| d.name = "other".into());
    differs(&|d| d.description = "words".into());
    differs(&|d| d.deadline = Some(duration(1)));
    differs(&|d| d.retention = Some(duration(1_000)));
    differs(&|d| d.steps[0].name = "z".into());
    differs(&|d| d.steps.swap(0, 1));
    differs(&|d| d.steps[1].phase = Compensatable.into());
    differs(&|d| d.steps[2].after.truncate(1));
    differs(&|d| {
        d.steps[3].kind = Some(step::Kind::Delay(Delay {
            duration: Some(duration(1)),
        }))
    });
    differs(&|d| {
        d.steps[3].kind = Some(step::Kind::Signal(Signal {
            name: "x".into(),
            timeout: None,
        }))
    });
    differs(&|d| {
        d.steps[3].kind = Some(step::Kind::Signal(Signal {
            name: "x".into(),
            timeout: Some(duration(1)),
        }))
    });
    differs(&|d| call_of(d, 0).participant = "q".into());
    differs(&|d| call_of(d, 0).action = "q".into());
    differs(&|d| call_of(d, 0).compensation = "q".into());
    differs(&|d| call_of(d, 0).timeout = Some(duration(1)));
    differs(&|d| call_of(d, 0).heartbeat_timeout = Some(duration(10)));
    differs(&|d| call_of(d, 2).stalled_after = Some(duration(10)));
    differs(&|d| call_of(d, 0).input_fields = vec!["x".into()]);
    differs(&|d| call_of(d, 3).outputs_of = vec!["a".into()]);
    differs(&|d| {
        call_of(d, 0).retry = Some(RetryPolicy {
            max_attempts: 3,
            ..RetryPolicy::default()
        })
    });
    differs(&|d| {
        call_of(d, 0).compensation_retry = Some(RetryPolicy {
            max_attempts: 3,
            ..RetryPolicy::default()
        })
    });
    differs(&|d| {
        call_of(d, 0).retry = Some(RetryPolicy {
            multiplier: 1.5,
            max_attempts: 2,
            ..RetryPolicy::default()
        })
    });
}

#[test]
fn the_hash_stays_the_same_for_ever() {
    // Stored with every saga: if this changes, running sagas lose their definitions.
    let small = Definition {
        name: "small".into(),
        steps: vec![Step {
            name: "a".into(),
            ..call("a", Compensatable, &[])
        }],
        ..Definition::default()
    };
    assert_eq!(
        hash(&small),
        "9d1d36c24e288f98152c78923d92aa453dbbb3d2485e0f5c1cd92bcda753b6e5"
    );
}

#[test]
fn backoff_grows_with_jitter_up_to_its_limit() {
    let retry = Retry {
        max_attempts: 5,
        initial_millis: 100,
        max_millis: 1_000,
        multiplier: 2.0,
    };
    for (attempt, full) in [
        (1, 100),
        (2, 200),
        (3, 400),
        (4, 800),
        (5, 1_000),
        (u32::MAX, 1_000),
    ] {
        let (mut least, mut most) = (i64::MAX, 0);
        for seed in 0..2_000u64 {
            let backoff =
                retry.backoff_millis(attempt, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7);
            least = least.min(backoff);
            most = most.max(backoff);
        }
        assert!(
            least >= full / 2 && most <= full,
            "attempt {attempt}: {least} to {most}"
        );
        assert!(
            least < full * 6 / 10 && most > full * 9 / 10,
            "attempt {attempt}: {least} to {most}"
        );
    }
}

#[test]
fn a_compiled_plan_knows_who_comes_before_whom() {
    let plan = Plan::compile(&good()).expect("valid");
    assert_eq!(plan.step(3).after.iter().collect::<Vec<_>>(), [2]);
    assert_eq!(plan.step(3).ancestors.iter().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(plan.step(0).descendants.iter().collect::<Vec<_>>(), [2, 3]);
    assert_eq!(plan.index_of("r"), Some(3));
    assert_eq!(plan.index_of("ghost"), None);
    assert_eq!(plan.hash(), hash(&good()));
}
