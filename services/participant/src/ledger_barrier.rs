//! The barrier through the ledger's inbox: the same rule, its rows written in the same commit as the events.
//!
//! A decider names [`keys`] among its inbox keys, asks [`check`] first, and adds [`record`]'s rows to its decision.

use ledger::{Decider, View};

use crate::Outcome;
use crate::barrier::inbox::{self, Rows};
pub use crate::barrier::inbox::{Entry, record};
use crate::barrier::{DecodeError, Key};

/// What [`Decider::inbox_keys`] must name for a command.
#[must_use]
pub fn keys(key: &Key) -> Vec<String> {
    inbox::keys(key).into()
}

/// What to do with a command, given what is in the ledger.
pub fn check<D: Decider>(
    view: &View<'_, D>,
    key: &Key,
    now_millis: i64,
) -> Result<Entry, DecodeError> {
    inbox::check(key, now_millis, |row| view.inbox(row))
}
