//! The promises, one per file. Each is checked against the history alone: what became durable, what was released, what clients saw.

mod facts;
mod p01_starts;
mod p02_endings;
mod p03_abort;
mod p04_order;
mod p05_pivot;
mod p06_barrier;
mod p07_tokens;
mod p08_care;
mod p09_watchers;
mod p10_books;

use std::fmt;

use sagamesh_api::saga::v1::SagaState;

use crate::history::{Entry, What};
use crate::setup::Setup;
use facts::Facts;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in docs/promises.md; 0 for what no promise speaks of, such as a panic.
    pub promise: u8,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "promise {}: {}", self.promise, self.text)
    }
}

/// A check: tells of every way in which a promise was broken.
type Check = fn(&Facts<'_>, &mut dyn FnMut(String));

/// The checks, with the numbers of their promises.
const CHECKS: [(u8, Check); 10] = [
    (1, p01_starts::check),
    (2, p02_endings::check),
    (3, p03_abort::check),
    (4, p04_order::check),
    (5, p05_pivot::check),
    (6, p06_barrier::check),
    (7, p07_tokens::check),
    (8, p08_care::check),
    (9, p09_watchers::check),
    (10, p10_books::check),
];

/// Checks a whole history. Also says how its sagas ended.
pub fn check(setup: &Setup, history: &[Entry]) -> (Vec<Violation>, Vec<SagaState>) {
    let facts = Facts::of(setup, history);
    let mut violations = Vec::new();
    for entry in history {
        if let What::Broken(text) = &entry.what {
            violations.push(Violation {
                promise: 0,
                text: text.clone(),
            });
        }
    }
    for (promise, check) in CHECKS {
        check(&facts, &mut |text| {
            violations.push(Violation { promise, text });
        });
    }
    let endings = facts.sagas.values().filter_map(|saga| saga.ended).collect();
    (violations, endings)
}
