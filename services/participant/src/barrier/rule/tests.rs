//! Every row, and a model of a service behind the rule, checked against the three anomalies.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sagamesh_api::saga::v1::Failure;

use super::*;
use crate::Outcome;
use crate::barrier::Key;
use crate::barrier::inbox::{self, Entry};

fn success() -> RecordedOutcome {
    RecordedOutcome::Success(None)
}

fn rejected() -> RecordedOutcome {
    RecordedOutcome::Rejected(Failure {
        reason: "NO".into(),
        message: String::new(),
        retry_after: None,
    })
}

#[test]
fn every_row_of_the_table() {
    use Verdict::{Proceed, RecordNoOp, Refuse, Replay};
    let (ok, no, void) = (success(), rejected(), RecordedOutcome::Void);
    let rows = [None, Some(&ok), Some(&no), Some(&void)];
    for direction in [
        Direction::Action,
        Direction::Unspecified,
        Direction::Compensation,
    ] {
        for action in rows {
            for compensation in rows {
                let expected = match (direction == Direction::Compensation, action, compensation) {
                    (true, _, Some(recorded)) => Replay(recorded.clone()),
                    (true, Some(RecordedOutcome::Success(_)), None) => Proceed,
                    (true, _, None) => RecordNoOp,
                    (false, _, Some(_)) => Refuse,
                    (false, None, None) => Proceed,
                    (false, Some(RecordedOutcome::Void), None) => Refuse,
                    (false, Some(recorded), None) => Replay(recorded.clone()),
                };
                assert_eq!(
                    rule(direction, action, compensation),
                    expected,
                    "{direction:?} {action:?} {compensation:?}"
                );
            }
        }
    }
}

/// A service: its barrier rows, and what its business has really done.
#[derive(Default)]
struct Service {
    rows: BTreeMap<String, Vec<u8>>,
    done: u32,
    undone: u32,
    answers: Vec<(Direction, &'static str)>,
}

/// What the business would say, and when the command comes.
type Delivery = (Direction, Outcome, bool);

impl Service {
    /// One command, in one transaction: the check, the work, the record.
    fn deliver(&mut self, (direction, would_say, late): Delivery) {
        let not_after = (direction == Direction::Action).then_some(if late { 0 } else { 10 });
        let key = Key {
            saga_id: "saga".into(),
            step: "step".into(),
            direction,
            not_after,
        };
        let entry = inbox::check(&key, 5, |row| self.rows.get(row).map(Vec::as_slice)).unwrap();
        let (outcome, rows) = match entry {
            Entry::Answer(outcome, rows) => (outcome, rows),
            Entry::Proceed => {
                assert!(!late, "an action took effect after its last moment");
                if matches!(would_say, Outcome::Success(_)) {
                    match direction {
                        Direction::Compensation => self.undone += 1,
                        Direction::Action | Direction::Unspecified => self.done += 1,
                    }
                }
                let rows = inbox::record(&key, &would_say);
                (would_say, rows)
            }
        };
        for (row, value) in rows {
            assert!(
                self.rows.insert(row, value).is_none(),
                "a barrier row was written twice"
            );
        }
        self.answers.push((direction, outcome.label()));
    }

    fn check(&self) {
        let first = |direction, label| {
            self.answers
                .iter()
                .position(|answer| *answer == (direction, label))
        };
        let compensated = first(Direction::Compensation, "success");
        assert!(
            self.done <= 1,
            "duplicate: the action took effect {} times",
            self.done
        );
        assert!(
            self.undone <= self.done,
            "empty compensation: undone {}, done {}",
            self.undone,
            self.done
        );
        if let Some(compensated) = compensated {
            assert_eq!(
                self.done, self.undone,
                "late action: it took effect after it was undone"
            );
            let later = &self.answers[compensated..];
            assert!(
                !later.contains(&(Direction::Action, "success")),
                "an action succeeded after its compensation"
            );
        }
        // What was once answered for good stays so, until the compensation.
        let before = &self.answers[..compensated.unwrap_or(self.answers.len())];
        let actions: Vec<_> = before
            .iter()
            .filter(|answer| answer.0 == Direction::Action)
            .map(|answer| answer.1)
            .collect();
        let rest = actions.iter().skip_while(|label| **label == "transient");
        assert!(
            rest.clone().all(|label| Some(label) == rest.clone().next()),
            "answers differ: {actions:?}"
        );
    }
}

fn outcomes() -> [Outcome; 3] {
    [
        Outcome::done(),
        Outcome::rejected("NO", ""),
        Outcome::transient("LATER", ""),
    ]
}

/// Every sequence of up to five deliveries: of either direction, in time or late, whatever the business says.
#[test]
fn every_short_history_is_free_of_the_three_anomalies() {
    let mut kinds: Vec<Delivery> = Vec::new();
    for outcome in outcomes() {
        kinds.push((Direction::Action, outcome.clone(), false));
        kinds.push((Direction::Compensation, outcome, false));
    }
    kinds.push((Direction::Action, Outcome::done(), true));
    let mut histories = 0_u32;
    for length in 0..=5 {
        for number in 0..kinds.len().pow(length) {
            let mut service = Service::default();
            let mut rest = number;
            for _ in 0..length {
                service.deliver(kinds[rest % kinds.len()].clone());
                rest /= kinds.len();
            }
            service.check();
            histories += 1;
        }
    }
    assert_eq!(histories, 1 + 7 + 49 + 343 + 2_401 + 16_807);
}

proptest! {
    #[test]
    fn every_long_history_is_free_of_the_three_anomalies(
        history in prop::collection::vec((any::<bool>(), 0_usize..3, prop::bool::weighted(0.1)), 0..60),
    ) {
        let mut service = Service::default();
        for (undo, outcome, late) in history {
            let direction = if undo { Direction::Compensation } else { Direction::Action };
            service.deliver((direction, outcomes()[outcome].clone(), late && !undo));
            service.check();
        }
    }
}
