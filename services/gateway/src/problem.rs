//! Errors over HTTP: problem details (RFC 9457) made from the same statuses that gRPC callers get.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use utoipa::ToSchema;

/// A problem, as `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemJson {
    /// Names the kind of problem: `urn:sagamesh:problem:` and the reason in lower case with hyphens.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and what to do.
    pub detail: String,
    /// Machine-readable reason.
    pub reason: String,
    /// Fields of the request that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Further facts, by name.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub context: std::collections::BTreeMap<String, String>,
}

/// A field that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// Path of the field, for example `lines[0].quantity`.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

/// An error of a REST handler.
#[derive(Debug)]
pub struct HttpProblem {
    status: Status,
    http: StatusCode,
}

impl HttpProblem {
    /// The same problem under another HTTP status than its gRPC code maps to.
    #[must_use]
    pub fn with_status(problem: chassis::Problem, http: StatusCode) -> Self {
        Self {
            status: problem.into(),
            http,
        }
    }
}

impl From<Status> for HttpProblem {
    fn from(status: Status) -> Self {
        let http = http_status(status.code());
        Self { status, http }
    }
}

impl From<chassis::Problem> for HttpProblem {
    fn from(problem: chassis::Problem) -> Self {
        Status::from(problem).into()
    }
}

/// The HTTP status of a gRPC code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl HttpProblem {
    fn body(&self) -> ProblemJson {
        let info = self.status.get_details_error_info();
        let reason = info
            .as_ref()
            .map_or_else(|| default_reason(self.http), |info| info.reason.clone());
        // What went wrong inside is for the log, not for the caller.
        let detail = match self.http {
            StatusCode::INTERNAL_SERVER_ERROR => "something went wrong on our side; the x-request-id of this answer finds it in the logs".to_owned(),
            _ => self.status.message().to_owned(),
        };
        ProblemJson {
            kind: format!(
                "urn:sagamesh:problem:{}",
                reason.to_ascii_lowercase().replace('_', "-")
            ),
            title: self.http.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.http.as_u16(),
            detail,
            reason,
            errors: chassis::problem::fields(&self.status)
                .into_iter()
                .map(|(field, detail)| FieldError { field, detail })
                .collect(),
            context: info
                .map(|info| info.metadata.into_iter().collect())
                .unwrap_or_default(),
        }
    }
}

fn default_reason(status: StatusCode) -> String {
    status
        .canonical_reason()
        .unwrap_or("ERROR")
        .to_ascii_uppercase()
        .replace([' ', '-'], "_")
}

impl IntoResponse for HttpProblem {
    fn into_response(self) -> Response {
        if self.http == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(code = ?self.status.code(), message = self.status.message(), "a request failed inside");
        }
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (
            self.http,
            [(header::CONTENT_TYPE, "application/problem+json")],
            body,
        )
            .into_response();
        if let Some(delay) = chassis::problem::retry_after(&self.status) {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.http == StatusCode::UNAUTHORIZED {
            let challenge =
                if chassis::problem::reason(&self.status).as_deref() == Some("TOKEN_MISSING") {
                    "Bearer"
                } else {
                    "Bearer error=\"invalid_token\""
                };
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        response
    }
}
