//! The one place where the service's refusals become statuses.

use chassis::{Domain, Problem, Violations};
use ledger::ExecuteError;
use tonic::Code;

use crate::decider::Refusal;
use crate::domain::{CancelRefusal, Violation};

/// Domain of the errors of this service.
pub(crate) const ERRORS: Domain = Domain("orders.sagamesh");

/// A request with these violations.
pub(crate) fn invalid(found: Vec<Violation>) -> Problem {
    let mut violations = Violations::new();
    for Violation { field, description } in found {
        violations.add(field, description);
    }
    ERRORS.invalid(violations)
}

/// No such order, or not this customer's.
pub(crate) fn not_found() -> Problem {
    ERRORS.problem(
        Code::NotFound,
        "ORDER_NOT_FOUND",
        "there is no such order: check the id and whose order it is",
    )
}

/// What the ledger said.
pub(crate) fn refused(error: ExecuteError<Refusal>) -> Problem {
    let retry = std::time::Duration::from_millis(500);
    match error {
        ExecuteError::Rejected(Refusal::RequestIdReused) => ERRORS.problem(
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            "request_id was used for another request: choose a new one for every new order",
        ),
        ExecuteError::Rejected(Refusal::Cancel(CancelRefusal::NotFound)) => not_found(),
        ExecuteError::Rejected(Refusal::Cancel(CancelRefusal::Rejected)) => ERRORS.problem(
            Code::FailedPrecondition,
            "ORDER_REJECTED",
            "the order was rejected: there is nothing to cancel",
        ),
        ExecuteError::Overloaded => ERRORS
            .problem(
                Code::ResourceExhausted,
                "OVERLOADED",
                "too many requests are waiting: try again later",
            )
            .retry_after(retry),
        ExecuteError::Unavailable => ERRORS
            .problem(
                Code::Unavailable,
                "SHUTTING_DOWN",
                "orders is shutting down: try again",
            )
            .retry_after(retry),
        ExecuteError::Storage(error) => storage(&error.0),
    }
}

/// The database failed.
pub(crate) fn storage(error: &ledger::Error) -> Problem {
    ERRORS.storage(error.is_transient(), error)
}
