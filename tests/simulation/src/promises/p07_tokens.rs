//! A stale lease token, epoch or owner never commits: what is recorded as the outcome of a step was answered by its newest attempt, and whatever is
//! recorded of a saga was written by the process that owned its shard at that moment. Nor does a command leave any other process.

use std::collections::{BTreeMap, BTreeSet};

use sagamesh_api::saga::v1::{Direction, transition::Kind};

use super::facts::Facts;
use crate::history::What;
use crate::truth::saga_event;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    tokens(facts, violated);
    owners(facts, violated);
}

/// What each process does to sagas, against who owned their shards in the database at that moment.
fn owners(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    if facts.setup.replicas == 1 {
        return;
    }
    let mut owners: BTreeMap<i64, (&str, i64)> = BTreeMap::new();
    let shard_of = |saga: &str| facts.sagas.get(saga).map(|saga| saga.shard);
    for entry in facts.history {
        let (by, sagas, did): (_, Vec<&str>, _) = match &entry.what {
            What::Owns { by, shard, epoch } => {
                owners.insert(*shard, (by, *epoch));
                continue;
            }
            What::Disowned { shard } => {
                owners.remove(shard);
                continue;
            }
            What::Durable { by, events, .. } => {
                let sagas = events.iter().filter_map(saga_event);
                (by, sagas.map(|(saga, _)| saga).collect(), "wrote to")
            }
            What::Released { by, told } => (by, vec![&*told.saga], "sent a command of"),
            _ => continue,
        };
        for saga in sagas {
            let owner = shard_of(saga).and_then(|shard| owners.get(&shard));
            if owner.is_none_or(|(owner, _)| owner != by) {
                violated(format!(
                    "at {} {by} {did} {saga}, whose shard has another owner: {owner:?}",
                    entry.at
                ));
            }
        }
    }
}

fn tokens(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
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
