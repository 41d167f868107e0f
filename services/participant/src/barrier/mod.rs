//! The barrier: what makes every command safe to repeat.
//!
//! It lives in the participant's own transaction and makes three anomalies impossible: a **duplicate** (the recorded outcome is
//! replayed), an **empty compensation** (undoing an action that never arrived is recorded and does nothing) and a **late
//! action** (one that arrives after its compensation is refused). [`rule()`] decides, without any storage; [`sql`] keeps the
//! rows in a table beside the service's own; [`inbox`] in a key-value inbox such as the ledger's.

pub mod inbox;
mod record;
mod rule;
pub mod sql;

pub use record::{DecodeError, RecordedOutcome};
pub use rule::{Verdict, rule};

use sagamesh_api::saga::v1::Direction;

use crate::Outcome;
use crate::command::direction_name;

/// What the barrier needs to know of a command: whose it is, and until when it may take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Id of the saga.
    pub saga_id: String,
    /// Name of the step.
    pub step: String,
    /// Whether to do or undo.
    pub direction: Direction,
    /// Unix milliseconds: an action must not take effect later.
    pub not_after: Option<i64>,
}

impl Key {
    /// Whether it is too late to take effect. Compensations are never too late.
    #[must_use]
    pub fn is_late(&self, now_millis: i64) -> bool {
        self.direction != Direction::Compensation
            && self.not_after.is_some_and(|limit| now_millis > limit)
    }

    /// The key for effects outside: the same for every attempt of this step in this direction.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!(
            "{}/{}/{}",
            self.saga_id,
            self.step,
            direction_name(self.direction)
        )
    }
}

/// What the answer is to a command that must not run, given what is on record.
fn refusal(key: &Key) -> Outcome {
    Outcome::rejected(
        "COMPENSATED_BEFORE",
        format!(
            "step `{}` of saga `{}` was already undone: its action is refused for good",
            key.step, key.saga_id
        ),
    )
}

/// The answer to an action that came too late to take effect.
fn too_late(key: &Key) -> Outcome {
    Outcome::transient(
        "TOO_LATE",
        format!(
            "the command for step `{}` of saga `{}` came after its last moment; nothing was done",
            key.step, key.saga_id
        ),
    )
}
