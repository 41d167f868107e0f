//! Errors as callers meet them: the one place where refusals become statuses.

use std::time::Duration;

use chassis::{Domain, Problem};
use ledger::ExecuteError;
use tonic::Code;

use crate::decider::Rejection;
use crate::registry::DefinitionRefusal;
use crate::saga::Refusal;

/// The coordinator's errors.
pub(crate) const ERRORS: Domain = Domain("coordinator.sagamesh");

/// What a caller is told when the ledger did not carry a command out.
pub(crate) fn problem(error: ExecuteError<Rejection>) -> Problem {
    match error {
        ExecuteError::Rejected(Rejection::Saga(refusal)) => refused(&refusal),
        ExecuteError::Rejected(Rejection::Definition(refusal)) => definition_refused(&refusal),
        ExecuteError::Rejected(Rejection::Elsewhere(_)) => crate::forward::moving(),
        ExecuteError::Rejected(rejection @ Rejection::Unprepared) => {
            refused(&Refusal::Corrupt(rejection.to_string()))
        }
        ExecuteError::Rejected(Rejection::Misdirected) => ERRORS.problem(
            Code::Internal,
            "MISDIRECTED",
            "the command does not fit its stream; this is a bug",
        ),
        ExecuteError::Overloaded => overloaded("too many commands are waiting"),
        ExecuteError::Unavailable => ERRORS
            .problem(
                Code::Unavailable,
                "SHUTTING_DOWN",
                "the coordinator is shutting down: try again, the same request is safe to repeat",
            )
            .retry_after(Duration::from_millis(500)),
        ExecuteError::Storage(error) => {
            tracing::error!(%error, "the log could not be written");
            storage()
        }
    }
}

/// The database failed.
pub(crate) fn storage() -> Problem {
    ERRORS
        .problem(Code::Unavailable, "STORAGE_FAILED", "the coordinator's database failed, its log says why: try again, the same request is safe to repeat")
        .retry_after(Duration::from_secs(1))
}

/// Reading the database failed.
pub(crate) fn read_failed(error: &ledger::Error) -> Problem {
    tracing::error!(%error, "the database could not be read");
    storage()
}

/// Too much work.
pub(crate) fn overloaded(what: &str) -> Problem {
    ERRORS
        .problem(
            Code::ResourceExhausted,
            "OVERLOADED",
            format!("{what}: try again a little later"),
        )
        .retry_after(Duration::from_millis(250))
}

/// What a caller is told when a saga refuses.
pub(crate) fn refused(refusal: &Refusal) -> Problem {
    let code = match refusal {
        Refusal::NotStarted => Code::NotFound,
        Refusal::IdReused(_) => Code::AlreadyExists,
        Refusal::NoOutcome | Refusal::UnknownSignal(_) | Refusal::UnknownStep(_) => {
            Code::InvalidArgument
        }
        Refusal::TooManySignals(_) | Refusal::TooLarge { .. } => Code::ResourceExhausted,
        Refusal::Corrupt(_) => Code::DataLoss,
        Refusal::Ended
        | Refusal::PivotDispatched
        | Refusal::Aborting
        | Refusal::Superseded
        | Refusal::NoAttempts(_)
        | Refusal::NotResolvable { .. }
        | Refusal::Newer(_)
        | Refusal::TooEarly { .. } => Code::FailedPrecondition,
    };
    let problem = ERRORS.problem(code, refusal.reason(), refusal.to_string());
    match refusal {
        Refusal::UnknownStep(_) => problem.field("step", refusal.to_string()),
        Refusal::UnknownSignal(_) => problem.field("name", refusal.to_string()),
        _ => problem,
    }
}

fn definition_refused(refusal: &DefinitionRefusal) -> Problem {
    let (code, reason) = match refusal {
        DefinitionRefusal::NotFound => (Code::NotFound, "DEFINITION_NOT_FOUND"),
        DefinitionRefusal::NoVersion(_) => (Code::NotFound, "DEFINITION_VERSION_NOT_FOUND"),
        DefinitionRefusal::ActiveChanged(_) => (Code::Aborted, "ACTIVE_VERSION_CHANGED"),
        DefinitionRefusal::Active => (Code::FailedPrecondition, "DEFINITION_ACTIVE"),
    };
    ERRORS.problem(code, reason, refusal.to_string())
}
