//! The barrier in a key-value inbox that is read before a decision and written with it, such as the ledger's.
//!
//! Rows must outlive every saga that wrote them: a compensation that finds no row of its action takes it for one that never came, and undoes
//! nothing. The ledger keeps keys that begin with `barrier/` for 400 days (`CommitterOptions::barrier_retention`), longer than other inbox rows.

use super::{DecodeError, Key, RecordedOutcome, Verdict, refusal, rule, too_late};
use crate::Outcome;

/// Rows to write with a decision: key and value. A row that is already there must make the write fail, so that the
/// decision is taken again.
pub type Rows = Vec<(String, Vec<u8>)>;

/// What a decider does with a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Do it, and write [`record`]'s rows with it.
    Proceed,
    /// Do nothing; write these rows and answer so.
    Answer(Outcome, Rows),
}

/// The inbox rows that [`check`] looks at: the action's and the compensation's.
#[must_use]
pub fn keys(key: &Key) -> [String; 2] {
    [row(key, "action"), row(key, "compensation")]
}

/// What to do with a command, given what `lookup` finds in the inbox.
pub fn check<'a>(
    key: &Key,
    now_millis: i64,
    lookup: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<Entry, DecodeError> {
    let [action_key, compensation_key] = keys(key);
    let action = lookup(&action_key)
        .map(RecordedOutcome::from_bytes)
        .transpose()?;
    let compensation = lookup(&compensation_key)
        .map(RecordedOutcome::from_bytes)
        .transpose()?;
    Ok(
        match rule(key.direction, action.as_ref(), compensation.as_ref()) {
            Verdict::Proceed if key.is_late(now_millis) => Entry::Answer(too_late(key), Vec::new()),
            Verdict::Proceed => Entry::Proceed,
            Verdict::Replay(recorded) => Entry::Answer(recorded.into(), Vec::new()),
            Verdict::Refuse => Entry::Answer(refusal(key), Vec::new()),
            Verdict::RecordNoOp => {
                let mut rows = vec![(compensation_key, RecordedOutcome::Success(None).to_bytes())];
                if action.is_none() {
                    rows.push((action_key, RecordedOutcome::Void.to_bytes()));
                }
                Entry::Answer(Outcome::done(), rows)
            }
        },
    )
}

/// The rows to write with the outcome of a command that proceeded: none if it is not final, and then nothing else must be
/// written either.
#[must_use]
pub fn record(key: &Key, outcome: &Outcome) -> Rows {
    let [action, compensation] = keys(key);
    let row = if key.direction == sagamesh_api::saga::v1::Direction::Compensation {
        compensation
    } else {
        action
    };
    RecordedOutcome::of(key.direction, outcome)
        .map(|recorded| (row, recorded.to_bytes()))
        .into_iter()
        .collect()
}

fn row(key: &Key, direction: &str) -> String {
    format!("barrier/{}/{}/{direction}", key.saga_id, key.step)
}
