//! Errors as users see them: what happened, where, and what to do next; and the exit codes.

use std::process::ExitCode;

use tonic_types::{FieldViolation, StatusExt as _};

/// Exit codes of `sagamesh`; documented in `sagamesh --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// The command line makes no sense. (clap uses the same number.)
    Usage = 2,
    /// The system, or the service in question, does not answer.
    NotRunning = 3,
    /// The system refused: bad input, not found, or not possible now.
    Refused = 4,
    /// It ended, but otherwise than hoped for: an order rejected, a saga undone, a scenario of the demo failed.
    EndedOtherwise = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error with its exit code and a hint.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What happened, in a sentence.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// The exit code.
    pub(crate) exit: Exit,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            hint: None,
            exit,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

/// Turns the answer of a service into a failure: `what` says what was asked of it.
pub(crate) fn from_status(service: &str, what: &str, status: &tonic::Status) -> Failure {
    let code = status.code();
    if unreachable(status) {
        return Failure::new(
            Exit::NotRunning,
            format!(
                "{what}: {service} does not answer just now ({})",
                plain(status.message())
            ),
        )
        .hint(
            "It may be starting again: try again. `sagamesh status` shows its process and its log.",
        );
    }
    let details = status.get_error_details();
    let mut message = format!("{what}: {}", plain(status.message()));
    if let Some(info) = details.error_info() {
        message.push_str(&format!(" ({})", info.reason));
    }
    if let Some(bad) = details.bad_request() {
        // A single violation may be the message already.
        let told = |text: &str| status.message().contains(text.trim_end_matches('.'));
        let untold =
            |violation: &&FieldViolation| !(told(&violation.field) && told(&violation.description));
        for violation in bad.field_violations.iter().filter(untold) {
            message.push_str(&format!(
                "\n  {}: {}",
                violation.field, violation.description
            ));
        }
    }
    let mut failure = Failure::new(exit_of(code), message);
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        failure = failure.hint(format!("Try again in {:.1} s.", delay.as_secs_f64()));
    } else if code == tonic::Code::Unauthenticated {
        failure = failure
            .hint("Make a token with `sagamesh token` and pass it: `sagamesh order ... --token TOKEN`, or in SAGAMESH_TOKEN.");
    } else if code == tonic::Code::PermissionDenied {
        // A service names its reason; the mesh in front of it has none to name.
        failure = failure.hint(if details.error_info().is_some() {
            "The token lacks a scope: see `sagamesh token --help`."
        } else {
            "The mesh's policy forbids it: `sagamesh mesh policy` shows who may call what."
        });
    } else if let Some(list) = details
        .error_info()
        .and_then(|info| where_listed(&info.reason))
    {
        failure = failure.hint(format!("Check the id; `sagamesh {list}` shows them."));
    }
    failure
}

/// The command that lists what was not found.
fn where_listed(reason: &str) -> Option<&'static str> {
    match reason {
        "SAGA_NOT_FOUND" => Some("saga list"),
        "ORDER_NOT_FOUND" => Some("order list"),
        "DEFINITION_NOT_FOUND" | "DEFINITION_VERSION_NOT_FOUND" => Some("definitions list"),
        "PARTICIPANT_NOT_FOUND" => Some("participants list"),
        _ => None,
    }
}

fn exit_of(code: tonic::Code) -> Exit {
    use tonic::Code;
    match code {
        Code::Unavailable | Code::DeadlineExceeded => Exit::NotRunning,
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => Exit::Failed,
        _ => Exit::Refused,
    }
}

/// Whether nobody answered at all, as opposed to a service that says UNAVAILABLE itself.
fn unreachable(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    status.code() == tonic::Code::Unavailable && details.error_info().is_none()
}

fn plain(message: &str) -> &str {
    if message.is_empty() {
        "no further explanation"
    } else {
        message.trim_end_matches('.')
    }
}

/// Prints an error and its hint to stderr and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let failure = error.downcast_ref::<Failure>();
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    let exit = match failure {
        Some(failure) => {
            if let Some(hint) = &failure.hint {
                eprintln!("{hint}");
            }
            failure.exit
        }
        None => Exit::Failed,
    };
    exit.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_names_reason_and_fields() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "BAD_INPUT",
            "orders.sagamesh",
            std::collections::HashMap::new(),
        );
        details.add_bad_request_violation("lines[0].quantity", "must be 1 to 10000");
        let status = tonic::Status::with_error_details(
            tonic::Code::InvalidArgument,
            "the order is not valid",
            details,
        );
        let failure = from_status("gateway", "placing the order", &status);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(
            failure.message,
            "placing the order: the order is not valid (BAD_INPUT)\n  lines[0].quantity: must be 1 to 10000"
        );
    }

    #[test]
    fn a_field_is_told_once() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("quantity", "must be at least 1");
        let status = tonic::Status::with_error_details(
            tonic::Code::InvalidArgument,
            "quantity: must be at least 1",
            details,
        );
        let failure = from_status("inventory", "adding stock", &status);
        assert_eq!(
            failure.message,
            "adding stock: quantity: must be at least 1"
        );
    }

    #[test]
    fn what_is_not_there_says_where_to_look() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "SAGA_NOT_FOUND",
            "coordinator.sagamesh",
            std::collections::HashMap::new(),
        );
        let status = tonic::Status::with_error_details(tonic::Code::NotFound, "no", details);
        let failure = from_status("coordinator", "reading saga nope", &status);
        assert_eq!(failure.exit, Exit::Refused);
        assert!(
            failure
                .hint
                .is_some_and(|hint| hint.contains("sagamesh saga list"))
        );
    }

    #[test]
    fn nobody_there_says_to_try_again() {
        let failure = from_status(
            "coordinator",
            "listing sagas",
            &tonic::Status::unavailable("connection refused"),
        );
        assert_eq!(failure.exit, Exit::NotRunning);
        assert!(
            failure
                .message
                .contains("coordinator does not answer just now")
        );
        assert!(failure.hint.is_some_and(|hint| hint.contains("try again")));
    }
}
