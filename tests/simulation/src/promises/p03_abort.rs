//! No forward command is released after the record of the abort: neither is one recorded after it, nor does one leave a coordinator that knows that
//! the abort is durable.

use sagamesh_api::saga::v1::{Direction, transition::Kind};

use super::facts::Facts;
use crate::history::What;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    for (id, saga) in &facts.sagas {
        let mut abort = None;
        for (record, kind) in saga.transitions() {
            match kind {
                Kind::Aborted(_) => abort = Some(record),
                Kind::Dispatched(sent)
                    if sent.direction() == Direction::Action && abort.is_some() =>
                {
                    violated(format!("{id}/{} was dispatched after the abort", sent.step));
                }
                _ => {}
            }
        }
        let Some(abort) = abort else {
            continue;
        };
        for (at, entry) in facts.history.iter().enumerate().skip(abort.at) {
            if let What::Released { by, told } = &entry.what
                && told.saga == *id
                && told.direction == Direction::Action
                && facts
                    .known_at(by, abort.position, abort.at)
                    .is_some_and(|known| known < at)
            {
                violated(format!("{told} left at {} after the abort", entry.at));
            }
        }
    }
}
