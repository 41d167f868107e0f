//! What a barrier row says, and how it is stored.

use prost::Message as _;
use sagamesh_api::saga::v1::{Direction, Failure, Success, Value};

use crate::Outcome;

/// How a step ended, for good.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedOutcome {
    /// It was done; this was its output.
    Success(Option<Value>),
    /// It was refused by the business and did nothing. Actions only.
    Rejected(Failure),
    /// On the action's row: its compensation came first, so that it must never run.
    Void,
}

/// A barrier row that this version cannot read.
#[derive(Debug, thiserror::Error)]
#[error(
    "a barrier row has outcome {tag} with {bytes} bytes, which this version cannot read: was it written by a newer one?"
)]
pub struct DecodeError {
    tag: i16,
    bytes: usize,
}

const SUCCESS: i16 = 1;
const REJECTED: i16 = 2;
const VOID: i16 = 3;

impl RecordedOutcome {
    /// What is to be recorded for an outcome: a success always, a rejection of an action, nothing else. A compensation that
    /// says no has undone nothing, and an operator may have it tried again.
    #[must_use]
    pub fn of(direction: Direction, outcome: &Outcome) -> Option<Self> {
        match (outcome, direction) {
            (Outcome::Success(output), _) => Some(Self::Success(output.clone())),
            (Outcome::Rejected(failure), Direction::Action | Direction::Unspecified) => {
                Some(Self::Rejected(failure.clone()))
            }
            (Outcome::Rejected(_), Direction::Compensation)
            | (Outcome::Transient(_) | Outcome::Unknown(_), _) => None,
        }
    }

    /// As the columns `outcome` and `payload`: 1 with an encoded `saga.v1.Success`, 2 with an encoded `saga.v1.Failure`, 3
    /// with nothing.
    #[must_use]
    pub fn to_columns(&self) -> (i16, Vec<u8>) {
        match self {
            Self::Success(output) => (
                SUCCESS,
                Success {
                    output: output.clone(),
                }
                .encode_to_vec(),
            ),
            Self::Rejected(failure) => (REJECTED, failure.encode_to_vec()),
            Self::Void => (VOID, Vec::new()),
        }
    }

    /// From the columns `outcome` and `payload`.
    pub fn from_columns(outcome: i16, payload: &[u8]) -> Result<Self, DecodeError> {
        let unreadable = |_| DecodeError {
            tag: outcome,
            bytes: payload.len(),
        };
        match outcome {
            SUCCESS => Success::decode(payload)
                .map(|success| Self::Success(success.output))
                .map_err(unreadable),
            REJECTED => Failure::decode(payload)
                .map(Self::Rejected)
                .map_err(unreadable),
            VOID => Ok(Self::Void),
            tag => Err(DecodeError {
                tag,
                bytes: payload.len(),
            }),
        }
    }

    /// As one value: the outcome as a byte, then the payload.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (outcome, payload) = self.to_columns();
        let mut bytes = Vec::with_capacity(payload.len() + 1);
        bytes.extend(u8::try_from(outcome));
        bytes.extend(payload);
        bytes
    }

    /// From one value.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((outcome, payload)) => Self::from_columns(i16::from(*outcome), payload),
            None => Err(DecodeError { tag: 0, bytes: 0 }),
        }
    }
}

impl From<RecordedOutcome> for Outcome {
    fn from(recorded: RecordedOutcome) -> Self {
        match recorded {
            RecordedOutcome::Success(output) => Self::Success(output),
            RecordedOutcome::Rejected(failure) => Self::Rejected(failure),
            // Only a row that was tampered with is replayed as void; it says that nothing was done.
            RecordedOutcome::Void => Self::done(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_written() {
        let outcomes = [
            RecordedOutcome::Success(None),
            RecordedOutcome::Success(Outcome::text("output").output().cloned()),
            RecordedOutcome::Rejected(Failure {
                reason: "NO".into(),
                message: "no".into(),
                retry_after: None,
            }),
            RecordedOutcome::Void,
        ];
        for outcome in outcomes {
            assert_eq!(
                RecordedOutcome::from_bytes(&outcome.to_bytes()).unwrap(),
                outcome
            );
            let (tag, payload) = outcome.to_columns();
            assert_eq!(
                RecordedOutcome::from_columns(tag, &payload).unwrap(),
                outcome
            );
        }
        for garbage in [&[][..], &[9], &[1, 0xff], &[2, 0xff]] {
            assert!(RecordedOutcome::from_bytes(garbage).is_err());
        }
    }

    #[test]
    fn only_what_is_final_is_recorded() {
        let rejected = Outcome::rejected("NO", "no");
        assert!(RecordedOutcome::of(Direction::Action, &rejected).is_some());
        assert!(RecordedOutcome::of(Direction::Compensation, &rejected).is_none());
        for direction in [Direction::Action, Direction::Compensation] {
            assert!(RecordedOutcome::of(direction, &Outcome::done()).is_some());
            assert!(RecordedOutcome::of(direction, &Outcome::transient("T", "")).is_none());
            assert!(RecordedOutcome::of(direction, &Outcome::unknown("U", "")).is_none());
        }
    }
}
