//! How an attempt ended.

use std::time::Duration;

use sagamesh_api::saga::v1::{Failure, Success, Value, result, value::Kind};
use serde::Serialize;

/// The longest reason that a coordinator takes.
const MAX_REASON: usize = 63;
/// The longest message that a coordinator takes, in characters.
const MAX_MESSAGE: usize = 1_000;

/// How an attempt ended. Which of the four it is decides what the saga does next, so the difference matters.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done, durably. The value goes to later steps and to the compensation.
    Success(Option<Value>),
    /// A business "no", recorded durably: it did nothing and never will. An action's rejection aborts the saga.
    Rejected(Failure),
    /// It certainly did nothing this time; another attempt may work.
    Transient(Failure),
    /// It may or may not have happened: tried again, and compensated if the saga aborts.
    Unknown(Failure),
}

impl Outcome {
    /// A success without output.
    #[must_use]
    pub const fn done() -> Self {
        Self::Success(None)
    }

    /// A success whose output is text.
    #[must_use]
    pub fn text(output: impl Into<String>) -> Self {
        Self::Success(Some(Value {
            kind: Some(Kind::Text(output.into())),
        }))
    }

    /// A success whose output is JSON text. A value that JSON cannot express is an unknown outcome: the work may be done.
    #[must_use]
    pub fn json(output: &impl Serialize) -> Self {
        match serde_json::to_string(output) {
            Ok(text) => Self::text(text),
            Err(error) => Self::unknown(
                "OUTPUT_NOT_JSON",
                format!("the output cannot be written as JSON: {error}"),
            ),
        }
    }

    /// A business "no": `reason` is UPPER_SNAKE_CASE, `message` is for people and holds nothing secret.
    #[must_use]
    pub fn rejected(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Rejected(failure(reason, message))
    }

    /// Nothing happened this time.
    #[must_use]
    pub fn transient(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Transient(failure(reason, message))
    }

    /// Nothing happened this time, and another attempt makes no sense before `after`.
    #[must_use]
    pub fn transient_after(
        reason: impl Into<String>,
        message: impl Into<String>,
        after: Duration,
    ) -> Self {
        let mut failure = failure(reason, message);
        failure.retry_after = prost_types::Duration::try_from(after).ok();
        Self::Transient(failure)
    }

    /// Nobody knows whether it happened.
    #[must_use]
    pub fn unknown(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Unknown(failure(reason, message))
    }

    /// The output of a success.
    #[must_use]
    pub const fn output(&self) -> Option<&Value> {
        match self {
            Self::Success(output) => output.as_ref(),
            Self::Rejected(_) | Self::Transient(_) | Self::Unknown(_) => None,
        }
    }

    /// What went wrong, if something did.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Success(_) => None,
            Self::Rejected(failure) | Self::Transient(failure) | Self::Unknown(failure) => {
                Some(failure)
            }
        }
    }

    /// Its name in metrics and spans.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Success(_) => "success",
            Self::Rejected(_) => "rejected",
            Self::Transient(_) => "transient",
            Self::Unknown(_) => "unknown",
        }
    }

    /// As it goes to the coordinator: reasons and messages brought into the limits of the contract, an output that is
    /// larger than `max_payload_bytes` replaced by an unknown outcome, so that the saga undoes what cannot be passed on.
    pub(crate) fn into_wire(self, max_payload_bytes: u64) -> result::Outcome {
        match self {
            Self::Success(output) => {
                let bytes = output.as_ref().map_or(0, payload_bytes);
                if max_payload_bytes > 0 && bytes as u64 > max_payload_bytes {
                    return result::Outcome::Unknown(failure(
                        "OUTPUT_TOO_LARGE",
                        format!(
                            "the output has {bytes} bytes, the coordinator takes at most {max_payload_bytes}"
                        ),
                    ));
                }
                result::Outcome::Success(Success { output })
            }
            Self::Rejected(failure) => result::Outcome::Rejection(within_limits(failure)),
            Self::Transient(failure) => result::Outcome::Transient(within_limits(failure)),
            Self::Unknown(failure) => result::Outcome::Unknown(within_limits(failure)),
        }
    }
}

/// So that handlers may use `?` on their way to an outcome.
impl From<Result<Outcome, Outcome>> for Outcome {
    fn from(result: Result<Outcome, Outcome>) -> Self {
        match result {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }
}

/// Bytes that a value carries.
fn payload_bytes(value: &Value) -> usize {
    match &value.kind {
        Some(Kind::Text(text)) => text.len(),
        Some(Kind::Binary(bytes)) => bytes.len(),
        None => 0,
    }
}

/// A failure without a retry hint.
fn failure(reason: impl Into<String>, message: impl Into<String>) -> Failure {
    Failure {
        reason: reason.into(),
        message: message.into(),
        retry_after: None,
    }
}

/// A coordinator refuses failures that break the limits; a refused result would leave the attempt to its timeout.
fn within_limits(mut failure: Failure) -> Failure {
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if failure.reason.is_empty() {
        failure.reason.push_str("UNSPECIFIED");
    } else if failure.reason.len() > MAX_REASON || !failure.reason.chars().all(allowed) {
        let reason = failure.reason.to_uppercase();
        failure.reason = reason
            .chars()
            .map(|c| if allowed(c) { c } else { '_' })
            .take(MAX_REASON)
            .collect();
    }
    if let Some((end, _)) = failure.message.char_indices().nth(MAX_MESSAGE) {
        failure.message.truncate(end);
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_brought_into_the_limits_of_the_contract() {
        let cases = [
            ("", "UNSPECIFIED"),
            ("OK_1", "OK_1"),
            ("card declined", "CARD_DECLINED"),
            ("é", "_"),
        ];
        for (given, expected) in cases {
            assert_eq!(within_limits(failure(given, "")).reason, expected);
        }
        assert_eq!(
            within_limits(failure("x".repeat(80), "")).reason.len(),
            MAX_REASON
        );
        assert_eq!(
            within_limits(failure("A", "ü".repeat(2_000)))
                .message
                .chars()
                .count(),
            MAX_MESSAGE
        );
    }

    #[test]
    fn an_output_that_is_too_large_is_an_unknown_outcome() {
        let wire = Outcome::text("12345").into_wire(4);
        assert!(
            matches!(wire, result::Outcome::Unknown(failure) if failure.reason == "OUTPUT_TOO_LARGE")
        );
        assert!(matches!(
            Outcome::text("1234").into_wire(4),
            result::Outcome::Success(_)
        ));
    }

    #[test]
    fn a_question_mark_ends_as_an_outcome() {
        let handler = |ok: bool| -> Result<Outcome, Outcome> {
            if ok {
                Ok(Outcome::done())
            } else {
                Err(Outcome::rejected("NO", "no"))
            }
        };
        assert_eq!(Outcome::from(handler(true)), Outcome::done());
        assert_eq!(Outcome::from(handler(false)).label(), "rejected");
    }
}
