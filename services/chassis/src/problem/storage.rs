//! What a service says when its database or its read side does not do what it should: in every service the same.

use std::fmt::Display;
use std::time::Duration;

use tonic::Code;

use super::{Domain, Problem};

/// When to try again what a database or a read side did not do in time.
const RETRY: Duration = Duration::from_millis(500);

impl Domain {
    /// The database failed; that is logged here. UNAVAILABLE (STORAGE_UNAVAILABLE) when the same call may work later, otherwise INTERNAL
    /// (STORAGE_FAILED).
    pub fn storage(self, passing: bool, error: &dyn Display) -> Problem {
        let service = self.service();
        if passing {
            tracing::warn!(%error, "the database of {service} failed");
            let message = format!("{service} cannot reach its database: try again");
            return self
                .problem(Code::Unavailable, "STORAGE_UNAVAILABLE", message)
                .retry_after(RETRY);
        }
        tracing::error!(%error, "the database of {service} failed");
        let message = format!("the database of {service} failed: look at the service's log");
        self.problem(Code::Internal, "STORAGE_FAILED", message)
    }

    /// The read side did not reach a `min_position` in time: OUT_OF_RANGE (POSITION_OUT_OF_RANGE) when the log itself ends before it, at `head`,
    /// otherwise DEADLINE_EXCEEDED (READ_SIDE_BEHIND).
    pub fn not_reached(self, min_position: u64, head: u64) -> Problem {
        if min_position <= head {
            return self.behind("min_position");
        }
        let message = format!(
            "min_position {min_position} lies beyond the newest position {head} of {}: it is another service's, or another log's",
            self.service()
        );
        self.problem(Code::OutOfRange, "POSITION_OUT_OF_RANGE", message)
            .field("min_position", "lies beyond the log")
    }

    /// The read side did not show something in time.
    pub fn behind(self, what: &str) -> Problem {
        let message = format!("the read side did not reach {what} in time: try again");
        self.problem(Code::DeadlineExceeded, "READ_SIDE_BEHIND", message)
            .retry_after(RETRY)
    }

    /// `orders` of `orders.sagamesh`.
    fn service(self) -> &'static str {
        self.0
            .split_once('.')
            .map_or(self.0, |(service, _)| service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERRORS: Domain = Domain("orders.sagamesh");

    #[test]
    fn what_can_pass_is_told_from_what_cannot() {
        for (problem, code, reason) in [
            (
                ERRORS.storage(true, &"gone"),
                Code::Unavailable,
                "STORAGE_UNAVAILABLE",
            ),
            (
                ERRORS.storage(false, &"odd"),
                Code::Internal,
                "STORAGE_FAILED",
            ),
            (
                ERRORS.not_reached(7, 6),
                Code::OutOfRange,
                "POSITION_OUT_OF_RANGE",
            ),
            (
                ERRORS.not_reached(7, 7),
                Code::DeadlineExceeded,
                "READ_SIDE_BEHIND",
            ),
        ] {
            assert_eq!((problem.code(), problem.reason()), (code, reason));
            let passes = matches!(code, Code::Unavailable | Code::DeadlineExceeded);
            let hint = crate::problem::retry_after(&problem.clone().into());
            assert_eq!(hint.is_some(), passes, "{problem}");
        }
        let message = ERRORS.not_reached(7, 6).message().to_owned();
        assert!(message.contains("position 6 of orders"), "{message}");
    }
}
