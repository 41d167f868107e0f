//! Errors as users meet them: a gRPC status with exactly one `ErrorInfo`, field violations for bad input and
//! `RetryInfo` where a retry helps.

mod storage;

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// Who speaks: the `domain` of a service's errors, for example `Domain("orders.sagamesh")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(pub &'static str);

impl Domain {
    /// An error with a stable `reason` in UPPER_SNAKE_CASE and a message that says what, where and what to do.
    pub fn problem(self, code: Code, reason: &'static str, message: impl Into<String>) -> Problem {
        Problem(Box::new(Inner {
            domain: self,
            code,
            reason,
            message: message.into(),
            fields: Vec::new(),
            retry_after: None,
            metadata: Vec::new(),
        }))
    }

    /// INVALID_ARGUMENT with every violation found, reason `INVALID_ARGUMENT`.
    pub fn invalid(self, violations: Violations) -> Problem {
        let message = match violations.0.as_slice() {
            [] => "the request is invalid".to_owned(),
            [(field, description)] => format!("{field}: {description}"),
            [(field, description), rest @ ..] => {
                format!("{field}: {description} (and {} more)", rest.len())
            }
        };
        let mut problem = self.problem(Code::InvalidArgument, "INVALID_ARGUMENT", message);
        problem.0.fields = violations.0;
        problem
    }

    /// INVALID_ARGUMENT for one field.
    pub fn invalid_field(
        self,
        field: impl Into<String>,
        description: impl Into<String>,
    ) -> Problem {
        let mut violations = Violations::new();
        violations.add(field, description);
        self.invalid(violations)
    }
}

/// An error on its way to a caller. `Status::from(problem)` carries the rich details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    domain: Domain,
    code: Code,
    reason: &'static str,
    message: String,
    fields: Vec<(String, String)>,
    retry_after: Option<Duration>,
    metadata: Vec<(String, String)>,
}

impl Problem {
    /// Adds a field violation.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.0.fields.push((field.into(), description.into()));
        self
    }

    /// Says that a retry after this time may help.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Adds a key and a value to the `ErrorInfo`. Never anything secret or personal.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.push((key.into(), value.into()));
        self
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The stable reason in UPPER_SNAKE_CASE.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.reason)
    }
}

impl std::error::Error for Problem {}

/// Most field violations that a status carries.
const MAX_FIELDS: usize = 20;
/// Most bytes of a status's details: 4 KiB in base64, as they are sent. Clients take 8 KiB of headers by default (grpc-java), and one that gets more
/// resets the stream: its caller would then see an error of the transport instead of this one.
const MAX_DETAILS: usize = 3 * 1024;
/// Most bytes of a message, which is sent twice: in the details too, and in a header that may need three bytes for one.
const MAX_MESSAGE: usize = 1024;

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let Inner {
            domain,
            code,
            reason,
            message,
            mut fields,
            retry_after,
            mut metadata,
        } = *problem.0;
        let message = cut(message);
        fields.truncate(MAX_FIELDS);
        // What does not fit is left out from the end: first violations, then metadata.
        loop {
            let info = metadata.iter().cloned().collect::<HashMap<_, _>>();
            let mut details = ErrorDetails::with_error_info(reason, domain.0, info);
            if !fields.is_empty() {
                let fields = fields.iter().cloned();
                let violations = fields.map(|(field, text)| FieldViolation::new(field, text));
                details.set_bad_request(violations.collect::<Vec<_>>());
            }
            if let Some(delay) = retry_after {
                details.set_retry_info(Some(delay));
            }
            let status = Status::with_error_details(code, message.as_str(), details);
            if status.details().len() <= MAX_DETAILS
                || (fields.pop().is_none() && metadata.pop().is_none())
            {
                return status;
            }
        }
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = message.floor_char_boundary(MAX_MESSAGE - '…'.len_utf8());
        message.truncate(end);
        message.push('…');
    }
    message
}

/// Everything that is wrong with a request, collected before it is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `field` (a path such as `lines[2].quantity`) is wrong, and how to make it right.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push((field.into(), description.into()));
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The violations as (field, description), in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(field, description)| (field.as_str(), description.as_str()))
    }

    /// `Ok` if nothing is wrong.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with every violation.
    pub fn into_result(self, domain: Domain) -> Result<(), Problem> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(domain.invalid(self))
        }
    }
}

/// The `ErrorInfo.reason` of a received status.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// The field violations of a received status, as (field, description).
pub fn fields(status: &Status) -> Vec<(String, String)> {
    let violations = status
        .get_details_bad_request()
        .map(|bad| bad.field_violations)
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| (violation.field, violation.description))
        .collect()
}

/// The `RetryInfo.retry_delay` of a received status.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERRORS: Domain = Domain("orders.sagamesh");

    #[test]
    fn details_survive_the_wire_format() {
        let problem = ERRORS
            .problem(
                Code::FailedPrecondition,
                "OUT_OF_STOCK",
                "SKU tea has 2 left, 3 were asked for: order fewer",
            )
            .field("lines[0].quantity", "at most 2")
            .metadata("sku", "tea")
            .retry_after(Duration::from_secs(3));
        let mut headers = http::HeaderMap::new();
        Status::from(problem)
            .add_header(&mut headers)
            .expect("a status fits into headers");
        let back = Status::from_header_map(&headers).expect("a status");
        assert_eq!(back.code(), Code::FailedPrecondition);
        assert_eq!(reason(&back).as_deref(), Some("OUT_OF_STOCK"));
        assert_eq!(
            fields(&back),
            [("lines[0].quantity".to_owned(), "at most 2".to_owned())]
        );
        assert_eq!(retry_after(&back), Some(Duration::from_secs(3)));
        let info = back.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(
            (info.domain.as_str(), info.metadata["sku"].as_str()),
            ("orders.sagamesh", "tea")
        );
    }

    #[test]
    fn violations_are_collected() {
        let mut violations = Violations::new();
        assert_eq!(violations.clone().into_result(ERRORS), Ok(()));
        violations.add("a", "is missing");
        violations.add("b", "is negative");
        let problem = violations.into_result(ERRORS).expect_err("two violations");
        assert_eq!(
            (problem.code(), problem.message()),
            (Code::InvalidArgument, "a: is missing (and 1 more)")
        );
        assert_eq!(fields(&problem.into()).len(), 2);
    }

    #[test]
    fn details_fit_into_the_headers_that_clients_take() {
        let many = |count: usize, description: &str| {
            let mut violations = Violations::new();
            for index in 0..count {
                violations.add(format!("lines[{index}].quantity"), description);
            }
            ERRORS.invalid(violations)
        };
        let with_metadata = (0..500).fold(
            ERRORS.problem(
                Code::FailedPrecondition,
                "INSUFFICIENT_STOCK",
                "ü".repeat(5_000),
            ),
            |problem, index| problem.metadata(format!("sku-{index}"), "requested=2 available=1"),
        );
        for (problem, some_fields) in [
            (many(200, "must be from 1 to 10,000"), true),
            (many(200, &"x".repeat(500)), true),
            (many(1, &"x".repeat(50_000)), false),
            (with_metadata, false),
        ] {
            let expected = (problem.code(), problem.reason());
            let mut headers = http::HeaderMap::new();
            Status::from(problem)
                .add_header(&mut headers)
                .expect("a status fits into headers");
            let details = headers["grpc-status-details-bin"].len();
            let all: usize = headers.values().map(|value| value.len()).sum();
            assert!(details <= 4_096 && all <= 7_680, "{details} of {all}");
            let back = Status::from_header_map(&headers).expect("a status");
            assert_eq!(
                (back.code(), reason(&back).as_deref()),
                (expected.0, Some(expected.1))
            );
            let violations = fields(&back);
            assert_eq!(!violations.is_empty(), some_fields);
            assert!(violations.len() <= MAX_FIELDS);
        }
        assert_eq!(fields(&many(200, "is wrong").into()).len(), MAX_FIELDS);
    }
}
