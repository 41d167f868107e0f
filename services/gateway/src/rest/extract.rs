//! Bodies, queries and headers, with errors that say which field is wrong.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::ERRORS;
use crate::problem::HttpProblem;

/// Longest that a body may take to arrive.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = HttpProblem;

    async fn from_request(request: Request, state: &S) -> Result<Self, HttpProblem> {
        let content_type = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !content_type
            .split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        {
            let problem = ERRORS.problem(
                tonic::Code::InvalidArgument,
                "UNSUPPORTED_MEDIA_TYPE",
                "send the body as `Content-Type: application/json`",
            );
            return Err(HttpProblem::with_status(
                problem,
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ));
        }
        let body = body(request, state).await?;
        parse(&body).map(Json)
    }
}

/// The whole body, as far as the limit allows.
pub(crate) async fn body<S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<Bytes, HttpProblem> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state));
    let whole = whole.await.map_err(|_| {
        let text = "the body did not arrive in time: send it faster, or less of it";
        let problem = ERRORS.problem(tonic::Code::DeadlineExceeded, "REQUEST_TIMEOUT", text);
        HttpProblem::with_status(problem, StatusCode::REQUEST_TIMEOUT)
    })?;
    whole.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let problem = ERRORS.problem(
                tonic::Code::InvalidArgument,
                "BODY_TOO_LARGE",
                "the body is larger than this gateway accepts: send less at once",
            );
            HttpProblem::with_status(problem, StatusCode::PAYLOAD_TOO_LARGE)
        }
        _ => ERRORS
            .problem(
                tonic::Code::InvalidArgument,
                "BODY_UNREADABLE",
                "the body could not be read",
            )
            .into(),
    })
}

/// JSON with the path of the field that is wrong.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpProblem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = match error.path().to_string() {
            path if path == "." || path.contains('?') => "body".to_owned(),
            path => path,
        };
        ERRORS.invalid_field(field, error.inner().to_string())
    })?;
    deserializer
        .end()
        .map_err(|error| ERRORS.invalid_field("body", error.to_string()))?;
    Ok(value)
}

/// A path parameter.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = HttpProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpProblem> {
        let axum::extract::Path(value) =
            axum::extract::Path::<String>::from_request_parts(parts, state)
                .await
                .map_err(|rejection| ERRORS.invalid_field("path", rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// A query string.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = HttpProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpProblem> {
        let axum::extract::Query(value) = axum::extract::Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ERRORS.invalid_field("query", rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// `Prefer: wait=N` (RFC 7240), at most 60 seconds.
pub(crate) fn prefer_wait(
    headers: &http::HeaderMap,
) -> Result<Option<std::time::Duration>, HttpProblem> {
    for value in headers.get_all("prefer") {
        for preference in value.to_str().unwrap_or_default().split(',') {
            let Some((name, seconds)) = preference.split_once('=') else {
                continue;
            };
            if name.trim().eq_ignore_ascii_case("wait") {
                let seconds: u64 = seconds.trim().parse().map_err(|_| {
                    ERRORS.invalid_field("Prefer", "write wait=N with N in whole seconds, 0 to 60")
                })?;
                return Ok(Some(std::time::Duration::from_secs(seconds.min(60))));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::model::NewOrder;

    #[test]
    fn the_wrong_field_is_named() {
        let refused = parse::<NewOrder>(
            br#"{"lines":[{"sku":"tea","quantity":-1}],"payment_method":"pm_ok","currency":"EUR"}"#,
        )
        .expect_err("negative");
        assert!(
            format!("{refused:?}").contains("lines[0].quantity"),
            "{refused:?}"
        );
        let refused = parse::<NewOrder>(b"{").expect_err("cut off");
        assert!(format!("{refused:?}").contains("body"), "{refused:?}");
        let refused =
            parse::<NewOrder>(br#"{"lines":[],"payment_method":"pm_ok","currency":"EUR"} x"#)
                .expect_err("trailing");
        assert!(format!("{refused:?}").contains("trailing"), "{refused:?}");
    }

    #[test]
    fn wait_is_read_and_bounded() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(prefer_wait(&headers).expect("none"), None);
        headers.insert(
            "prefer",
            "respond-async, wait=600".parse().expect("a value"),
        );
        assert_eq!(
            prefer_wait(&headers).expect("bounded"),
            Some(std::time::Duration::from_secs(60))
        );
        headers.insert("prefer", "wait=soon".parse().expect("a value"));
        prefer_wait(&headers).expect_err("not a number");
    }
}
