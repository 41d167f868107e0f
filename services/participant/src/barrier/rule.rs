//! The rule, without storage.

use sagamesh_api::saga::v1::Direction;

use super::RecordedOutcome;

/// What to do with a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Do it, and record its outcome in the same transaction.
    Proceed,
    /// It was done before: answer as then.
    Replay(RecordedOutcome),
    /// There is nothing to undo. Record that, and that the action is refused from now on.
    RecordNoOp,
    /// Its compensation was here first: refuse it, for good.
    Refuse,
}

/// Decides by what is on record for the step: `action_row` and `compensation_row` are the outcomes recorded for the two
/// directions of the same saga and step.
///
/// | command | action's row | compensation's row | verdict |
/// |---|---|---|---|
/// | action | none | none | proceed |
/// | action | success, rejected | none | replay it |
/// | action | void | any | refuse |
/// | action | any | any | refuse |
/// | compensation | success | none | proceed |
/// | compensation | none, rejected, void | none | record a no-op |
/// | compensation | any | any | replay it |
#[must_use]
pub fn rule(
    direction: Direction,
    action_row: Option<&RecordedOutcome>,
    compensation_row: Option<&RecordedOutcome>,
) -> Verdict {
    use RecordedOutcome::{Rejected, Success, Void};
    match (direction, action_row, compensation_row) {
        (Direction::Action | Direction::Unspecified, None, None) => Verdict::Proceed,
        (Direction::Action | Direction::Unspecified, Some(Void), None) => Verdict::Refuse,
        (Direction::Action | Direction::Unspecified, Some(recorded), None) => {
            Verdict::Replay(recorded.clone())
        }
        (Direction::Action | Direction::Unspecified, _, Some(_)) => Verdict::Refuse,
        (Direction::Compensation, _, Some(recorded)) => Verdict::Replay(recorded.clone()),
        (Direction::Compensation, Some(Success(_)), None) => Verdict::Proceed,
        (Direction::Compensation, None | Some(Rejected(_) | Void), None) => Verdict::RecordNoOp,
    }
}

#[cfg(test)]
mod tests;
