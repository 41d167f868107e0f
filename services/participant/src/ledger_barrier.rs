//! The barrier through the ledger's inbox: the same rule, its rows written in the same commit as the events.
//!
//! A decider names [`keys`] among its inbox keys, asks [`check`] first, and adds [`record`]'s rows to its decision:
//!
//! ```ignore
//! fn inbox_keys(&self, command: &Command) -> Vec<String> { ledger_barrier::keys(&command.key) }
//!
//! fn decide(&self, view: &View<'_, Self>, command: &Command, now: i64) -> Result<Decision<Event, Outcome>, Damaged> {
//!     match ledger_barrier::check(view, &command.key, now)? {
//!         Entry::Answer(outcome, rows) => Ok(ledger_barrier::answer(outcome, rows)),
//!         Entry::Proceed => {
//!             let (events, outcome) = domain::decide(view.state(&command.stream), command);
//!             let rows = ledger_barrier::record(&command.key, &outcome);
//!             Ok(Decision { events, ..ledger_barrier::answer(outcome, rows) })
//!         }
//!     }
//! }
//! ```
//!
//! An outcome that is not final must come without events: it will be decided again.

use std::time::Duration;

use ledger::{Decider, Decision, ExecuteError, Executed, View};

use crate::Outcome;
use crate::barrier::inbox::{self, Rows};
pub use crate::barrier::inbox::{Entry, record};
use crate::barrier::{DecodeError, Key};

/// After how long a command that an overloaded ledger shed is worth another attempt.
const OVERLOADED_RETRY: Duration = Duration::from_millis(200);

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

/// A decision that answers `outcome` and writes these rows, and no events.
#[must_use]
pub fn answer<E>(outcome: Outcome, rows: Rows) -> Decision<E, Outcome> {
    Decision {
        inbox: rows,
        ..Decision::new(outcome)
    }
}

/// The outcome to give to the coordinator for what the ledger answered; the decider's own rejection is handed back.
pub fn outcome_of<R>(answer: Result<Executed<Outcome>, ExecuteError<R>>) -> Result<Outcome, R> {
    Ok(match answer {
        Ok(executed) => executed.reply,
        Err(ExecuteError::Rejected(rejection)) => return Err(rejection),
        Err(ExecuteError::Overloaded) => Outcome::transient_after(
            "OVERLOADED",
            "too many commands are waiting; nothing was done",
            OVERLOADED_RETRY,
        ),
        Err(ExecuteError::Storage(error)) => {
            tracing::warn!(%error, "a step could not be written");
            Outcome::transient(
                "STORAGE_UNAVAILABLE",
                "the participant's storage failed; nothing was done",
            )
        }
        Err(ExecuteError::Unavailable) => Outcome::unknown(
            "SHUTTING_DOWN",
            "the participant is shutting down and may or may not have done it",
        ),
    })
}
