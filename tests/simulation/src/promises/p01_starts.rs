//! An acknowledged start is never lost: it was durable before it was acknowledged.

use super::facts::Facts;
use crate::history::What;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    for (at, entry) in facts.history.iter().enumerate() {
        let What::Acknowledged { saga } = &entry.what else {
            continue;
        };
        let first = facts.sagas.get(saga).and_then(|saga| saga.records.first());
        match first {
            None => violated(format!(
                "{saga} was acknowledged, and there is no such saga"
            )),
            Some(record) if record.at > at => {
                violated(format!("{saga} was acknowledged before it was durable"));
            }
            Some(_) => {}
        }
    }
}
