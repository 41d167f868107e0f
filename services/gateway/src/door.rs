//! What every request passes on its way in: request id, trace, metrics, rate limits, token.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chassis::trace::KeyValue;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use tonic::Code;
use tracing::Instrument as _;

use crate::auth::Caller;
use crate::gateway::Gateway;
use crate::held::held;
use crate::limits::{Allowance, TooMany, UnderWay};
use crate::problem::HttpProblem;
use crate::{ERRORS, patience};

const REQUEST_ID: &str = "x-request-id";

/// Tells clients of HTTP/1.1 to come again on another connection, for as long as a shutdown waits for that: one that is idle
/// when the gateway goes may be closed under the next request. HTTP/2 has a frame that says so.
pub(crate) async fn farewell(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let can_be_told = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    if can_be_told && gateway.draining.is_cancelled() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

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
    let incoming = request
        .headers()
        .get(chassis::trace::TRACEPARENT)
        .and_then(|value| value.to_str().ok())
        .filter(|incoming| chassis::trace::is_traceparent(incoming))
        .map(str::to_owned);
    let method = request.method().clone();
    // The route, not the path: ids would make metrics grow without end.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = match &matched {
        Some(route) => route.as_str().to_owned(),
        None if is_grpc(request.headers()) => "grpc".to_owned(),
        None => "none".to_owned(),
    };
    let span = tracing::info_span!(
        "http.server",
        otel.kind = "server",
        http.request.method = known(&method),
        http.route = matched.as_ref().map(MatchedPath::as_str),
        http.response.status_code = tracing::field::Empty,
        request_id = id.to_str().unwrap_or_default()
    );
    if let Some(incoming) = &incoming {
        chassis::trace::set_parent(&span, incoming);
    }
    let name = || match &matched {
        Some(route) => format!("{} {}", known(&method), route.as_str()),
        None => known(&method).to_owned(),
    };
    chassis::trace::describe(&span, name, || attributes(&request, matched.as_ref()));
    // Without a collector there is no span to hand on, and the trace begins with a random id.
    let traceparent = incoming.unwrap_or_else(|| chassis::trace::new_root(&*gateway.entropy));
    let mut response = chassis::trace::scope(
        Some(&traceparent),
        next.run(request).instrument(span.clone()),
    )
    .await;

    let status = response.status().as_u16();
    let elapsed = started.elapsed().as_secs_f64();
    span.record("http.response.status_code", status);
    if response.status().is_server_error() {
        chassis::trace::failed(&span, status.to_string());
    }
    let labels = [
        ("method", known(&method).to_owned()),
        ("route", route),
        ("status", status.to_string()),
    ];
    metrics::histogram!("http_server_request_duration_seconds", &labels).record(elapsed);
    span.in_scope(|| tracing::debug!(status, seconds = elapsed, "answered"));
    response.headers_mut().insert(REQUEST_ID, id);
    // JSON is never to be taken for a page.
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// What else a collector is told. A path is whatever a caller wrote, ids and worse: its route stands for it.
fn attributes(request: &Request, route: Option<&MatchedPath>) -> [KeyValue; 4] {
    let version = match request.version() {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    let path = route.map_or("/", MatchedPath::as_str).to_owned();
    [
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("url.path", path),
        KeyValue::new("network.protocol.name", "http"),
        KeyValue::new("network.protocol.version", version),
    ]
}

/// The method as a label: whatever else a stranger invents shares one.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

/// Longest that a request may take to its answer's first byte: the handlers' own limits are shorter, this one bounds
/// callers who send their body by the byte.
const LONGEST: Duration = Duration::from_secs(90);

/// Longest that a stranger's request and its answer keep a place.
const LONGEST_ANONYMOUS: Duration = Duration::from_secs(30);

/// Who calls, or why nobody is known; for [`subject`].
#[derive(Clone)]
struct Known(Result<Caller, tonic::Status>);

/// Handles so many requests at a time. A place is kept until the answer's body has ended, so streams count; requests
/// without a caller take from a small share of their own, and keep it for a bounded time.
pub(crate) async fn place(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Response {
    let grpc = is_grpc(request.headers());
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let known = gateway.keys.current().verify(token);
    let (longest, kept) = match &known {
        Ok(caller) => {
            let Ok(place) = Arc::clone(&gateway.places).try_acquire_owned() else {
                let text = "the gateway handles as many requests as it may: try again later";
                let problem = ERRORS
                    .problem(Code::ResourceExhausted, "OVERLOADED", text)
                    .retry_after(Duration::from_secs(1));
                return shed(problem, grpc);
            };
            match gateway.limits.begin(&caller.subject) {
                Ok(under_way) => (LONGEST, Kept::Caller(place, under_way)),
                Err(problem) => return answer(problem, grpc),
            }
        }
        Err(_) => {
            let longest = if grpc {
                patience::REFLECTION
            } else {
                LONGEST_ANONYMOUS
            };
            let address = client_address(&request, gateway.trust_forwarded_for);
            match gateway.anonymous.begin(address, longest) {
                Ok(place) => (longest, Kept::Stranger(place)),
                Err(problem) => return shed(problem, grpc),
            }
        }
    };
    let known = Known(known.map_err(Into::into));
    request.extensions_mut().insert(known);
    let Ok(response) = tokio::time::timeout(longest, next.run(request)).await else {
        let text = "the request took too long to arrive or to be answered";
        let problem = ERRORS.problem(Code::DeadlineExceeded, "REQUEST_TIMEOUT", text);
        return answer_as(problem, StatusCode::REQUEST_TIMEOUT, grpc);
    };
    held(response, kept)
}

/// What a request keeps until its answer has ended.
#[expect(dead_code, reason = "kept to be dropped")]
enum Kept {
    Caller(tokio::sync::OwnedSemaphorePermit, UnderWay),
    Stranger(crate::anonymous::Place),
}

/// A refusal for want of a place.
fn shed(problem: chassis::Problem, grpc: bool) -> Response {
    metrics::counter!("http_server_shed_total").increment(1);
    answer_as(problem, StatusCode::SERVICE_UNAVAILABLE, grpc)
}

/// A panic in a handler is a problem for its caller alone.
pub(crate) async fn panics(request: Request, next: Next) -> Response {
    let grpc = is_grpc(request.headers());
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    handled.unwrap_or_else(|_| {
        metrics::counter!("http_server_panics_total").increment(1);
        // The panic's own text went to stderr; it may hold anything, so it goes nowhere else.
        let text = "a handler panicked";
        answer(ERRORS.problem(Code::Internal, "PANIC", text), grpc)
    })
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

/// Lets callers alone in, and limits how often.
pub(crate) async fn subject(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Response {
    let grpc = is_grpc(request.headers());
    let caller = match request.extensions_mut().remove() {
        Some(Known(Ok(caller))) => caller,
        Some(Known(Err(status))) => return answer(status, grpc),
        None => return answer(tonic::Status::internal("a request passed no door"), grpc),
    };
    let allowance = match gateway.limits.subject(&caller.subject) {
        Ok(allowance) => allowance,
        Err(refused) => return too_many(*refused, grpc),
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if !grpc {
        rate_headers(response.headers_mut(), allowance);
        // One customer's data: nobody in between may keep it.
        let headers = response.headers_mut();
        if !headers.contains_key(header::CACHE_CONTROL) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
    response
}

/// A refusal as the caller understands it.
fn answer(problem: impl Into<tonic::Status>, grpc: bool) -> Response {
    let status = problem.into();
    if grpc {
        status.into_http::<axum::body::Body>()
    } else {
        HttpProblem::from(status).into_response()
    }
}

/// The same, with an HTTP status of its own.
fn answer_as(problem: chassis::Problem, http: StatusCode, grpc: bool) -> Response {
    if grpc {
        answer(problem, grpc)
    } else {
        HttpProblem::with_status(problem, http).into_response()
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
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
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
    limited_as(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// What counts as one address: of IPv6 the /64, since every customer has at least that many.
fn limited_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_customer_count_together() {
        let limited = |text: &str| limited_as(text.parse().expect("an address"));
        assert_eq!(limited("2001:db8::1"), limited("2001:db8::ffff:2"));
        assert_ne!(limited("2001:db8::1"), limited("2001:db8:0:1::1"));
        assert_eq!(limited("::ffff:10.0.0.1"), limited("10.0.0.1"));
        assert_ne!(limited("10.0.0.1"), limited("10.0.0.2"));
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_that_tells_nothing() {
        use axum::body::Body;
        use axum::routing::get;
        use http_body_util::BodyExt as _;
        use tower::ServiceExt as _;
        async fn failing() -> &'static str {
            panic!("a secret")
        }
        let app = axum::Router::new()
            .route("/", get(failing))
            .layer(axum::middleware::from_fn(panics));
        let response = app
            .oneshot(Request::new(Body::empty()))
            .await
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.expect("a body");
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        assert!(text.contains("PANIC") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn invented_methods_share_a_label() {
        assert_eq!(known(&Method::GET), "GET");
        let invented = Method::from_bytes(b"FOO17").expect("a method");
        assert_eq!(known(&invented), "_OTHER");
    }
}
