//! Every phase with every change under all facts: what is legal, and what may never be.

use std::collections::BTreeSet;

use sagamesh_api::saga::v1::{Direction, Phase};

use super::harness::{Action, Compensatable, Compensation, Pivot, ReadOnly, Retriable};
use crate::saga::{Change, Facts, StepPhase, next};

fn changes() -> Vec<Change> {
    let mut all = vec![Change::Wait, Change::Stall, Change::Abort];
    for way in [Action, Compensation] {
        all.extend([
            Change::Dispatch(way),
            Change::Succeed(way),
            Change::Reject(way),
            Change::Fail(way),
            Change::Lose(way),
            Change::Supersede(way),
            Change::Backoff(way),
            Change::Park(way),
            Change::Retry(way),
            Change::Skip(way),
            Change::ResolveSucceeded(way),
            Change::ResolveRejected(way),
        ]);
    }
    all
}

fn all_facts() -> Vec<Facts> {
    let mut all = Vec::new();
    for role in [Compensatable, ReadOnly, Pivot, Retriable] {
        for aborting in [false, true] {
            for tainted in [false, true] {
                all.push(Facts {
                    role,
                    aborting,
                    tainted,
                });
            }
        }
    }
    all
}

fn each(mut check: impl FnMut(StepPhase, Change, Facts, Option<StepPhase>)) {
    for phase in StepPhase::ALL {
        for change in changes() {
            for facts in all_facts() {
                check(phase, change, facts, next(phase, change, facts));
            }
        }
    }
}

fn going_back(phase: StepPhase) -> bool {
    use StepPhase as P;
    matches!(
        phase,
        P::Compensating
            | P::UndoLapsed
            | P::UndoBackingOff
            | P::UndoParked
            | P::Compensated
            | P::Leftover
    )
}

fn rank(role: Phase) -> &'static str {
    match role {
        Phase::Compensatable => "C",
        Phase::ReadOnly => "R",
        Phase::Pivot => "P",
        _ => "T",
    }
}

/// The whole table, written out a second time: phase and change, the phase after it, and under which facts (roles C, R, P, T;
/// `+` aborting, `-` not; `!` tainted, `.` not; nothing: any).
const EXPECTED: &[(&str, &str)] = &[
    ("Pending Dispatch(Action)", "Running -"),
    ("Pending Wait", "Waiting RT-"),
    ("Pending Abort", "NotStarted"),
    ("Waiting Succeed(Action)", "Succeeded"),
    ("Waiting Stall", "Waiting T"),
    ("Waiting Abort", "NotStarted"),
    ("Waiting Skip(Action)", "Skipped T"),
    ("Waiting ResolveSucceeded(Action)", "Succeeded T"),
    ("Running Succeed(Action)", "Succeeded"),
    (
        "Running Reject(Action)",
        "Unknown C! Rejected C. Rejected R Rejected P. Lapsed P! Lapsed T",
    ),
    (
        "Running Fail(Action)",
        "Lapsed - Unknown C+! Rejected C+. Rejected RPT+",
    ),
    (
        "Running Lose(Action)",
        "Lapsed - Unknown C+! Rejected C+. Rejected RPT+",
    ),
    ("Running Supersede(Action)", "Running"),
    ("Running Stall", "Running PT"),
    ("Running Abort", "Running CR"),
    ("Running Skip(Action)", "Skipped T"),
    ("Running ResolveSucceeded(Action)", "Succeeded PT"),
    ("Lapsed Dispatch(Action)", "Running -"),
    ("Lapsed Backoff(Action)", "BackingOff -"),
    ("Lapsed Park(Action)", "Parked PT-"),
    ("Lapsed Abort", "Unknown C! Rejected C. Rejected R"),
    ("Lapsed Supersede(Action)", "Lapsed"),
    ("BackingOff Dispatch(Action)", "Running -"),
    ("BackingOff Succeed(Action)", "Succeeded"),
    (
        "BackingOff Reject(Action)",
        "Unknown C! Rejected C. Rejected R Rejected P. Lapsed P! Lapsed T",
    ),
    ("BackingOff Fail(Action)", "BackingOff"),
    ("BackingOff Supersede(Action)", "BackingOff"),
    ("BackingOff Stall", "BackingOff PT"),
    ("BackingOff Park(Action)", "Parked PT-"),
    ("BackingOff Abort", "Unknown C! Rejected C. Rejected R"),
    ("BackingOff Retry(Action)", "Lapsed PT"),
    ("BackingOff Skip(Action)", "Skipped T"),
    ("BackingOff ResolveSucceeded(Action)", "Succeeded PT"),
    ("Parked Succeed(Action)", "Succeeded"),
    (
        "Parked Reject(Action)",
        "Unknown C! Rejected C. Rejected R Rejected P. Parked P! Parked T",
    ),
    ("Parked Fail(Action)", "Parked"),
    ("Parked Supersede(Action)", "Parked"),
    ("Parked Retry(Action)", "Lapsed PT"),
    ("Parked Skip(Action)", "Skipped T"),
    ("Parked ResolveSucceeded(Action)", "Succeeded PT"),
    ("Parked ResolveRejected(Action)", "Rejected P"),
    ("Succeeded Abort", "Succeeded CR"),
    ("Succeeded Dispatch(Compensation)", "Compensating C+"),
    ("Succeeded Supersede(Action)", "Succeeded"),
    ("Rejected Abort", "Rejected"),
    ("Rejected Supersede(Action)", "Rejected"),
    ("Unknown Succeed(Action)", "Succeeded"),
    (
        "Unknown Reject(Action)",
        "Unknown C! Rejected C. Rejected R Rejected P. Lapsed P! Lapsed T",
    ),
    (
        "Unknown Fail(Action)",
        "Unknown C! Rejected C. Rejected RPT",
    ),
    ("Unknown Abort", "Unknown CR"),
    ("Unknown Dispatch(Compensation)", "Compensating C+"),
    ("Unknown Supersede(Action)", "Unknown"),
    ("Skipped Supersede(Action)", "Skipped"),
    ("Compensating Succeed(Compensation)", "Compensated"),
    ("Compensating Reject(Compensation)", "UndoLapsed"),
    ("Compensating Fail(Compensation)", "UndoLapsed"),
    ("Compensating Lose(Compensation)", "UndoLapsed"),
    ("Compensating Supersede(Action)", "Compensating"),
    ("Compensating Supersede(Compensation)", "Compensating"),
    ("UndoLapsed Dispatch(Compensation)", "Compensating C+"),
    ("UndoLapsed Backoff(Compensation)", "UndoBackingOff"),
    ("UndoLapsed Park(Compensation)", "UndoParked"),
    ("UndoLapsed Supersede(Action)", "UndoLapsed"),
    ("UndoLapsed Supersede(Compensation)", "UndoLapsed"),
    ("UndoBackingOff Dispatch(Compensation)", "Compensating C+"),
    ("UndoBackingOff Succeed(Compensation)", "Compensated"),
    ("UndoBackingOff Reject(Compensation)", "UndoLapsed"),
    ("UndoBackingOff Fail(Compensation)", "UndoBackingOff"),
    ("UndoBackingOff Supersede(Action)", "UndoBackingOff"),
    ("UndoBackingOff Supersede(Compensation)", "UndoBackingOff"),
    ("UndoParked Succeed(Compensation)", "Compensated"),
    ("UndoParked Reject(Compensation)", "UndoParked"),
    ("UndoParked Fail(Compensation)", "UndoParked"),
    ("UndoParked Retry(Compensation)", "UndoLapsed"),
    ("UndoParked Skip(Compensation)", "Leftover"),
    ("UndoParked ResolveSucceeded(Compensation)", "Compensated"),
    ("UndoParked Supersede(Action)", "UndoParked"),
    ("UndoParked Supersede(Compensation)", "UndoParked"),
    ("Compensated Supersede(Action)", "Compensated"),
    ("Compensated Supersede(Compensation)", "Compensated"),
    ("Leftover Supersede(Action)", "Leftover"),
    ("Leftover Supersede(Compensation)", "Leftover"),
];

fn expected(phase: StepPhase, change: Change, facts: Facts) -> Option<String> {
    let key = format!("{phase:?} {change:?}");
    let (_, rules) = EXPECTED.iter().find(|(at, _)| *at == key)?;
    let mut words = rules.split(' ').peekable();
    while let Some(target) = words.next() {
        let condition = words
            .next_if(|word| {
                StepPhase::ALL
                    .iter()
                    .all(|phase| format!("{phase:?}") != *word)
            })
            .unwrap_or("");
        let roles: String = condition.chars().filter(char::is_ascii_uppercase).collect();
        let role = roles.is_empty() || roles.contains(rank(facts.role));
        let aborting = !condition.contains(if facts.aborting { '-' } else { '+' });
        let tainted = !condition.contains(if facts.tainted { '.' } else { '!' });
        if role && aborting && tainted {
            return Some(target.to_owned());
        }
    }
    None
}

#[test]
fn every_pair_of_phase_and_change_is_as_written() {
    let mut legal = 0;
    let mut illegal = 0;
    each(|phase, change, facts, after| {
        let after = after.map(|after| format!("{after:?}"));
        assert_eq!(
            after,
            expected(phase, change, facts),
            "{phase:?} {change:?} {facts:?}"
        );
        match after {
            Some(_) => legal += 1,
            None => illegal += 1,
        }
    });
    assert_eq!(legal + illegal, 17 * 27 * 16);
    assert!(
        legal > 500 && illegal > 5_000,
        "{legal} legal, {illegal} illegal"
    );
}

#[test]
fn what_may_never_be() {
    each(|phase, change, facts, after| {
        let Some(after) = after else { return };
        if facts.aborting {
            assert_ne!(
                change,
                Change::Dispatch(Action),
                "released forward after the abort"
            );
            assert_ne!(change, Change::Wait);
        } else {
            assert_ne!(
                change,
                Change::Dispatch(Compensation),
                "undone without an abort"
            );
        }
        if facts.role != Compensatable && !going_back(phase) {
            assert!(
                after != StepPhase::Compensating,
                "a {:?} step was undone",
                facts.role
            );
        }
        if going_back(phase) {
            assert!(
                going_back(after),
                "{phase:?} went forward again by {change:?}"
            );
        }
        if matches!(
            phase,
            StepPhase::Compensated
                | StepPhase::Leftover
                | StepPhase::NotStarted
                | StepPhase::Skipped
        ) {
            assert_eq!(phase, after, "it was over");
        }
        if facts.tainted && facts.role == Compensatable && phase != StepPhase::Rejected {
            assert_ne!(
                (after, change),
                (StepPhase::Rejected, Change::Abort),
                "it may have happened"
            );
        }
        if facts.role == Pivot
            && facts.tainted
            && change == Change::Reject(Action)
            && phase != StepPhase::Unknown
        {
            assert_ne!(
                after,
                StepPhase::Rejected,
                "one attempt of the pivot may have happened"
            );
        }
    });
}

#[test]
fn every_phase_can_be_reached_and_left_to_an_end() {
    let mut reached = BTreeSet::from(["Pending".to_owned()]);
    let mut seen = vec![StepPhase::Pending];
    while let Some(phase) = seen.pop() {
        for change in changes() {
            for facts in all_facts() {
                if let Some(after) = next(phase, change, facts)
                    && reached.insert(format!("{after:?}"))
                {
                    seen.push(after);
                }
            }
        }
    }
    assert_eq!(reached.len(), StepPhase::ALL.len());
}

#[test]
fn an_unspecified_direction_is_never_legal() {
    for phase in StepPhase::ALL {
        for facts in all_facts() {
            let none = Direction::Unspecified;
            for change in [
                Change::Dispatch(none),
                Change::Succeed(none),
                Change::Fail(none),
                Change::Park(none),
                Change::Supersede(none),
            ] {
                assert_eq!(next(phase, change, facts), None, "{phase:?} {change:?}");
            }
        }
    }
}
