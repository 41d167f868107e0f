//! Nothing is undone once the pivot may have happened.

use sagamesh_api::saga::v1::{Direction, transition::Kind};

use super::facts::Facts;
use crate::history::What;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    for (id, saga) in &facts.sagas {
        let Some(pivot) = saga.pivot() else {
            continue;
        };
        let (mut attempts, mut surely_not) = (0, 0);
        for (_, kind) in saga.transitions() {
            match kind {
                Kind::Dispatched(sent) if sent.step == pivot => attempts += 1,
                Kind::Rejected(no) if no.step == pivot => surely_not += 1,
                Kind::Failed(no) if no.step == pivot => surely_not += 1,
                Kind::Dispatched(sent)
                    if sent.direction() == Direction::Compensation
                        && attempts > surely_not
                        && !saga.ruled_on(pivot) =>
                {
                    violated(format!(
                        "{id}/{} is undone although {pivot} may have happened",
                        sent.step
                    ));
                }
                _ => {}
            }
        }
        let happened = !facts.effects_of(id, pivot).is_empty();
        if !happened {
            continue;
        }
        for entry in facts.history {
            if let What::Released { told, .. } = &entry.what
                && told.saga == *id
                && told.direction == Direction::Compensation
            {
                violated(format!("{told} was released although {pivot} happened"));
            }
        }
    }
}
