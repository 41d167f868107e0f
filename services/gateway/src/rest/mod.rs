//! REST: routes, handlers and their OpenAPI description.

pub(crate) mod events;
pub(crate) mod extract;
pub(crate) mod items;
pub mod model;
pub mod openapi;
pub(crate) mod orders;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode};
use tonic::Code;

use crate::ERRORS;
use crate::gateway::Gateway;
use crate::problem::HttpProblem;

/// Header of a write's position in the log of the service that took it.
pub const POSITION: &str = "sagamesh-position";

/// The routes that need a token.
pub(crate) fn protected() -> Router<Gateway> {
    Router::new()
        .route("/v1/orders", post(orders::place).get(orders::list))
        .route("/v1/orders/{id}", get(orders::get))
        .route("/v1/orders/{id}/cancel", post(orders::cancel))
        .route("/v1/orders/{id}/events", get(events::order_events))
        .route("/v1/me/dashboard", get(orders::dashboard))
        .route("/v1/items", get(items::list))
        .route("/v1/items/{sku}", get(items::get))
        .route("/v1/items/{sku}/restock", post(items::restock))
}

/// The routes that everybody may call.
pub(crate) fn open() -> Router<Gateway> {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/openapi.json", get(openapi::document))
        .route("/.well-known/jwks.json", get(jwks))
}

async fn jwks(axum::extract::State(gateway): axum::extract::State<Gateway>) -> Response {
    (
        [(http::header::CONTENT_TYPE, "application/json")],
        gateway.keys.current().jwks().to_owned(),
    )
        .into_response()
}

/// No such path.
pub(crate) async fn not_found(headers: HeaderMap, uri: http::Uri) -> Response {
    if crate::door::is_grpc(&headers) {
        // What gRPC callers understand.
        let text = format!("there is no method {} here", uri.path());
        return tonic::Status::unimplemented(text).into_http::<axum::body::Body>();
    }
    let problem: HttpProblem = ERRORS
        .problem(
            Code::NotFound,
            "NO_SUCH_PATH",
            format!(
                "there is nothing at {}: /openapi.json lists what there is",
                uri.path()
            ),
        )
        .into();
    problem.into_response()
}

/// The path exists, but not for this method.
pub(crate) async fn method_not_allowed(method: http::Method, uri: http::Uri) -> HttpProblem {
    let message = format!(
        "{method} is not possible at {}: /openapi.json lists what is",
        uri.path()
    );
    HttpProblem::with_status(
        ERRORS.problem(Code::Unimplemented, "METHOD_NOT_ALLOWED", message),
        StatusCode::METHOD_NOT_ALLOWED,
    )
}

/// An answer with the position of its write.
fn at_position(position: u64, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response
        .headers_mut()
        .insert(POSITION, HeaderValue::from(position));
    response
}

/// The request id to be idempotent by: of the body, of the `Idempotency-Key` header, or a fresh one. Both are fine if they agree.
pub(crate) fn request_id(headers: &HeaderMap, body: Option<String>) -> Result<String, HttpProblem> {
    let header = headers.get("idempotency-key").map(|value| {
        value
            .to_str()
            .unwrap_or_default()
            .trim_matches('"')
            .to_owned()
    });
    match (header, body) {
        (Some(header), Some(body)) if header != body => Err(ERRORS
            .invalid_field(
                "request_id",
                "differs from the Idempotency-Key header: send one of the two",
            )
            .into()),
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Ok(uuid::Uuid::now_v7().to_string()),
    }
}
