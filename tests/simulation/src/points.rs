//! Sagas whose every outcome is written down beforehand, so that a stop can be tried at every point.

use std::collections::BTreeMap;

use participant::{Direction, Outcome};
use sagamesh_api::saga::v1::Definition;

use crate::history::Told;
use crate::moods::Mood;

/// What the handler of a step says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Says {
    /// Success.
    Yes,
    /// A rejection.
    No,
    /// It did it, and does not know.
    Forgets,
}

/// A definition, and what its steps say when their actions come.
#[derive(Clone, Debug)]
pub struct Script {
    /// What runs.
    pub definition: Definition,
    /// What steps say; those that are not named succeed.
    pub says: BTreeMap<String, Says>,
}

impl Script {
    /// The mood for a command.
    pub fn mood(&self, told: &Told, good: Mood) -> Mood {
        let says = self.says.get(&told.step).copied().unwrap_or(Says::Yes);
        match says {
            Says::No if told.direction == Direction::Action => Mood {
                says: Outcome::rejected("NO", "the script says no"),
                ..good
            },
            Says::Forgets if told.direction == Direction::Action => Mood {
                forgets: true,
                ..good
            },
            _ => good,
        }
    }
}
