//! A watcher sees every event once and in order, as it is on record, and to the end.

use std::collections::BTreeMap;

use super::facts::Facts;
use crate::clients::hash_of;
use crate::history::What;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    let mut seen: BTreeMap<(usize, &str), u64> = BTreeMap::new();
    for (at, entry) in facts.history.iter().enumerate() {
        match &entry.what {
            What::Watched {
                watcher,
                saga,
                version,
                hash,
            } => {
                let last = seen.entry((*watcher, saga)).or_default();
                if *version != *last + 1 {
                    violated(format!(
                        "watcher {watcher} of {saga} saw {version} after {last}"
                    ));
                }
                *last = *version;
                let index = usize::try_from(version.saturating_sub(1)).unwrap_or(usize::MAX);
                let record = facts
                    .sagas
                    .get(saga)
                    .and_then(|saga| saga.records.get(index));
                match record {
                    Some(record) if record.at < at && hash_of(&record.event) == *hash => {}
                    _ => violated(format!(
                        "watcher {watcher} saw a {saga}#{version} that is not on record"
                    )),
                }
            }
            What::WatchedToTheEnd { watcher, saga } => {
                let last = seen.get(&(*watcher, &**saga)).copied().unwrap_or(0);
                let Some(saga_facts) = facts.sagas.get(saga) else {
                    continue;
                };
                let ended = saga_facts.ended.is_some();
                let end = saga_facts.records.iter().position(|record| {
                    record.event.transitions.iter().any(|transition| {
                        matches!(
                            transition.kind,
                            Some(sagamesh_api::saga::v1::transition::Kind::Ended(_))
                        )
                    })
                });
                let end = end.map_or(0, |end| end as u64 + 1);
                if !ended || last < end {
                    violated(format!(
                        "watcher {watcher} was told that {saga} was over after {last} of {end} events"
                    ));
                }
            }
            _ => {}
        }
    }
}
