//! Every saga that has not ended has a next timer, an attempt under way or a task for an operator.

use super::facts::Facts;
use crate::history::What;

pub(super) fn check(facts: &Facts<'_>, violated: &mut dyn FnMut(String)) {
    for entry in facts.history {
        if let What::Forgotten { saga } = &entry.what {
            violated(format!(
                "at {} nothing and nobody would go on with {saga}",
                entry.at
            ));
        }
    }
}
