//! What every request passes on its way in: request id, trace, metrics, rate limits, token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, header};
use tracing::Instrument as _;

use crate::gateway::Gateway;
use crate::limits::{Allowance, TooMany};
use crate::problem::HttpProblem;

const REQUEST_ID: &str = "x-request-id";

/// Gives the request an id and a trace, counts and logs its answer.
pub(crate) async fn observe(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers()).unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::now_v7().to_string())
            .unwrap_or(HeaderValue::from_static("none"))
    });
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let traceparent = match request
        .headers()
        .get(chassis::trace::TRACEPARENT)
        .and_then(|value| value.to_str().ok())
    {
        Some(incoming) => incoming.to_owned(),
        None => chassis::trace::new_root(&*gateway.entropy),
    };
    let method = request.method().clone();
    // The route, not the path: ids would make metrics grow without end.
    let route = match request.extensions().get::<MatchedPath>() {
        Some(route) => route.as_str().to_owned(),
        None if is_grpc(request.headers()) => "grpc".to_owned(),
        None => "none".to_owned(),
    };
    let span = tracing::info_span!("http.server", otel.name = format!("{method} {route}"), otel.kind = "server", http.request.method = %method, http.route = route, http.response.status_code = tracing::field::Empty, request_id = id.to_str().unwrap_or_default());
    chassis::trace::set_parent(&span, &traceparent);
    let mut response = chassis::trace::scope(
        Some(&traceparent),
        next.run(request).instrument(span.clone()),
    )
    .await;

    let status = response.status().as_u16();
    let elapsed = started.elapsed().as_secs_f64();
    span.record("http.response.status_code", status);
    let labels = [
        ("method", method.as_str().to_owned()),
        ("route", route),
        ("status", status.to_string()),
    ];
    metrics::histogram!("http_server_request_duration_seconds", &labels).record(elapsed);
    span.in_scope(|| tracing::debug!(status, seconds = elapsed, "answered"));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The caller's own request id, if it is a sensible one.
fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let sensible = |value: &&HeaderValue| {
        value.len() <= 128
            && !value.is_empty()
            && value
                .as_bytes()
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(byte))
    };
    headers.get(REQUEST_ID).filter(sensible).cloned()
}

/// Limits how often one address calls.
pub(crate) async fn address(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let grpc = is_grpc(request.headers());
    match gateway
        .limits
        .address(client_address(&request, gateway.trust_forwarded_for))
    {
        Ok(_) => next.run(request).await,
        Err(refused) => too_many(*refused, grpc),
    }
}

/// Finds out who calls and limits how often.
pub(crate) async fn subject(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Response {
    let grpc = is_grpc(request.headers());
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let caller = match gateway.verifier.verify(token) {
        Ok(caller) => caller,
        Err(problem) => return answer(problem, grpc),
    };
    let allowance = match gateway.limits.subject(&caller.subject) {
        Ok(allowance) => allowance,
        Err(refused) => return too_many(*refused, grpc),
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if !grpc {
        rate_headers(response.headers_mut(), allowance);
    }
    response
}

/// A refusal as the caller understands it.
fn answer(problem: chassis::Problem, grpc: bool) -> Response {
    if grpc {
        tonic::Status::from(problem).into_http::<axum::body::Body>()
    } else {
        HttpProblem::from(problem).into_response()
    }
}

fn too_many(refused: TooMany, grpc: bool) -> Response {
    let mut response = answer(refused.problem, grpc);
    if !grpc {
        rate_headers(response.headers_mut(), refused.allowance);
        response.headers_mut().insert(
            header::RETRY_AFTER,
            HeaderValue::from(refused.retry_after_seconds.max(1)),
        );
    }
    response
}

fn rate_headers(headers: &mut HeaderMap, allowance: Allowance) {
    headers.insert("ratelimit-limit", HeaderValue::from(allowance.limit));
    headers.insert(
        "ratelimit-remaining",
        HeaderValue::from(allowance.remaining),
    );
    headers.insert(
        "ratelimit-reset",
        HeaderValue::from(allowance.reset_seconds),
    );
}

/// gRPC, or gRPC-Web.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Who is on the other side. The last entry of X-Forwarded-For is the one that our own proxy wrote; earlier ones are the client's claim.
fn client_address(request: &Request, trust_forwarded_for: bool) -> IpAddr {
    let forwarded = || {
        let value = request
            .headers()
            .get_all("x-forwarded-for")
            .iter()
            .next_back()?
            .to_str()
            .ok()?;
        value.rsplit(',').next()?.trim().parse().ok()
    };
    let peer = || {
        request
            .extensions()
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip())
    };
    let address = if trust_forwarded_for {
        forwarded().or_else(peer)
    } else {
        peer()
    };
    address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}
