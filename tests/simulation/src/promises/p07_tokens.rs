//! A stale lease token never commits: what is recorded as the outcome of a step was answered by its newest attempt.

use std::collections::{BTreeMap, BTreeSet};

use sagamesh_api::saga::v1::{Direction, transition::Kind};

use super::facts::Facts;
use crate::history::What;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    let mut answered: BTreeMap<u64, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for (at, entry) in facts.history.iter().enumerate() {
        if let What::Answered(told, how) = &entry.what {
            let answers = answered.entry(told.token);
            answers.or_insert((at, BTreeSet::new())).1.insert(how);
        }
    }
    let was = |token: u64, before: usize, how: &str| {
        let found = answered.get(&token);
        found.is_some_and(|(at, answers)| *at < before && answers.contains(how))
    };
    for (id, saga) in &facts.sagas {
        let mut newest: BTreeMap<(&str, Direction), u64> = BTreeMap::new();
        let calls = |name: &str| {
            let mut steps = saga.definition.steps.iter();
            steps.any(|step| step.name == name && facts.is_seen(step))
        };
        for (record, kind) in saga.transitions() {
            let (step, direction, how) = match kind {
                Kind::Dispatched(sent) => {
                    newest.insert((&sent.step, sent.direction()), sent.lease_token);
                    continue;
                }
                Kind::Succeeded(done) => (&done.step, done.direction(), "success"),
                Kind::Rejected(no) => (&no.step, no.direction(), "rejected"),
                _ => continue,
            };
            let token = newest.get(&(&**step, direction)).copied().unwrap_or(0);
            if calls(step) && !was(token, record.at, how) {
                violated(format!(
                    "{id}/{step}: {how} ({direction:?}) is on record, but its newest attempt {token:016x} has not said so"
                ));
            }
        }
    }
}
