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
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| wrong(error.path().to_string(), &error.inner().to_string()))?;
    deserializer
        .end()
        .map_err(|error| wrong(String::new(), &error.to_string()))?;
    Ok(value)
}

/// What serde says, without what was sent: answers are logged by callers, and what they sent may be a card's number.
fn wrong(mut path: String, message: &str) -> HttpProblem {
    let mut message = without_value(message);
    if let Some(name) = unknown_field(&message)
        && !is_word(name)
    {
        // A name that is no word may be a value that lost its place.
        let around = path.strip_suffix(name).unwrap_or_default();
        path = around.trim_end_matches('.').to_owned();
        message = "has a field that is not known: /openapi.json lists what there is".to_owned();
    }
    if path.is_empty() || path == "." || path.contains('?') {
        path = "body".to_owned();
    }
    ERRORS.invalid_field(path, message).into()
}

fn without_value(message: &str) -> String {
    let told = |start: &str| message.starts_with(start);
    if told("invalid type: ") || told("invalid value: ") || told("unknown variant ") {
        // The last one is serde's own: what comes before it may hold anything.
        if let Some((_, expected)) = message.rsplit_once(", expected ") {
            return format!("must be {expected}");
        }
    }
    message.to_owned()
}

fn unknown_field(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `")?;
    rest.rsplit_once("`, expected ").map(|(name, _)| name)
}

fn is_word(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.len() <= 40 && name.bytes().all(letter)
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
    fn a_wrong_value_is_not_repeated() {
        for (body, right) in [
            (r#"{"payment_method":4242424242424242}"#, "must be a string"),
            (
                r#"{"lines":"4242424242424242, expected nothing"}"#,
                "must be a sequence",
            ),
            (r#"{"4242424242424242":1}"#, "a field that is not known"),
            (r#"{"x`4242424242424242":1}"#, "a field that is not known"),
            (r#"{"ann@x 4242":1}"#, "a field that is not known"),
            (r#"{"payment_metod":1}"#, "unknown field `payment_metod`"),
            (r#""4242424242424242""#, "must be struct NewOrder"),
            (
                r#"{"lines":[{"sku":"tea","quantity":4242424242424242}]}"#,
                "must be u32",
            ),
        ] {
            let refused = parse::<NewOrder>(body.as_bytes()).expect_err("wrong");
            let text = format!("{refused:?}");
            assert!(!text.contains("4242"), "{text}");
            assert!(text.contains(right), "{text}");
        }
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
