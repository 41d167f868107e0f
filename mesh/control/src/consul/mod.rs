//! Consul's HTTP API for what the registry does, so that its clients work unchanged: register, deregister, report, find.
//!
//! Everything else of Consul's (keys and values, sessions, ACLs, Connect) is not here and answers 404 with a sentence.

mod answer;
mod query;
mod request;

use std::future::ready;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use chassis::server::{Connections, Protocol};
use chassis::{Listener, Tasks};
use http::{Method, StatusCode, Uri};
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;
use crate::registry::spec::Health;
use crate::registry::table::{Denied, Refused};
use query::Wanted;

/// Largest body of a request.
const MAX_BODY: usize = 64 * 1024;
/// How long requests may go on after the process was told to end; blocking queries end at once.
const DRAIN: Duration = Duration::from_secs(1);

/// What the handlers share.
#[derive(Clone, Debug)]
struct Consul {
    registry: Registry,
    address: SocketAddr,
    draining: CancellationToken,
}

/// Serves Consul's API on a bound listener, as an owned task.
pub fn serve(listener: Listener, registry: Registry, tasks: &Tasks) {
    let address = listener.address();
    let router = router(Consul {
        registry,
        address,
        draining: tasks.draining(),
    });
    let connections = Connections {
        listener,
        protocol: Protocol::Any,
        max_streams: 64,
        max_connections: 512,
        max_per_address: usize::MAX,
    };
    let draining = tasks.draining();
    tasks.spawn_essential("consul", async move {
        tracing::info!(%address, "Consul's API is served");
        connections
            .serve(
                move |_peer| router.clone(),
                draining.cancelled_owned(),
                std::future::pending(),
                DRAIN,
            )
            .await;
    });
}

fn router(consul: Consul) -> Router {
    Router::new()
        .route("/v1/agent/service/register", put(register))
        .route("/v1/agent/service/deregister/{id}", put(deregister))
        .route("/v1/agent/check/pass/{check}", put(pass))
        .route("/v1/agent/check/warn/{check}", put(warn))
        .route("/v1/agent/check/fail/{check}", put(fail))
        .route("/v1/agent/check/update/{check}", put(update))
        .route("/v1/agent/services", get(agent_services))
        .route("/v1/agent/checks", get(agent_checks))
        .route("/v1/agent/self", get(agent_self))
        .route("/v1/health/service/{name}", get(health_service))
        .route("/v1/catalog/services", get(catalog_services))
        .route("/v1/catalog/service/{name}", get(catalog_service))
        .route("/v1/status/leader", get(leader))
        .route("/v1/status/peers", get(peers))
        .fallback(|uri: Uri| {
            ready(refusal(
                StatusCode::NOT_FOUND,
                format!(
                    "{} is not among what this registry serves of Consul's API",
                    uri.path()
                ),
            ))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| {
            ready(refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("method {method} not allowed at {}", uri.path()),
            ))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(consul)
}

/// An error as Consul's clients expect it: plain text.
fn refusal(status: StatusCode, message: impl Into<String>) -> Response {
    (status, message.into()).into_response()
}

async fn register(State(consul): State<Consul>, body: Bytes) -> Response {
    let spec = match request::registration(&body) {
        Ok(spec) => spec,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, message),
    };
    match consul.registry.register(spec).await {
        Ok(_) => StatusCode::OK.into_response(),
        Err(refused @ Refused::Full) => refusal(StatusCode::TOO_MANY_REQUESTS, refused.to_string()),
        Err(refused @ Refused::IsPod) => refusal(StatusCode::FORBIDDEN, refused.to_string()),
    }
}

async fn deregister(State(consul): State<Consul>, Path(id): Path<String>) -> Response {
    match consul.registry.deregister(&id, None).await {
        Ok(true) => StatusCode::OK.into_response(),
        Ok(false) => {
            let message = format!(
                "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
            );
            refusal(StatusCode::NOT_FOUND, message)
        }
        Err(denied) => refusal(
            StatusCode::FORBIDDEN,
            format!("service ID {id:?}: {denied}"),
        ),
    }
}

#[derive(serde::Deserialize)]
struct Note {
    #[serde(default)]
    note: String,
}

async fn pass(consul: State<Consul>, check: Path<String>, note: Query<Note>) -> Response {
    report(&consul.0, &check.0, Health::Passing, &note.0.note).await
}

async fn warn(consul: State<Consul>, check: Path<String>, note: Query<Note>) -> Response {
    report(&consul.0, &check.0, Health::Warning, &note.0.note).await
}

async fn fail(consul: State<Consul>, check: Path<String>, note: Query<Note>) -> Response {
    report(&consul.0, &check.0, Health::Critical, &note.0.note).await
}

async fn update(State(consul): State<Consul>, Path(check): Path<String>, body: Bytes) -> Response {
    match request::check_update(&body) {
        Ok((health, output)) => report(&consul, &check, health, &output).await,
        Err(message) => refusal(StatusCode::BAD_REQUEST, message),
    }
}

async fn report(consul: &Consul, check: &str, health: Health, output: &str) -> Response {
    match consul.registry.report_by_check(check, health, output).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(denied @ Denied::OfPod(_)) => refusal(
            StatusCode::FORBIDDEN,
            format!("the instance of the check {check:?}: {denied}"),
        ),
        Err(_) => {
            let message = format!("Unknown check ID {check:?}: there is no TTL check of this id");
            refusal(StatusCode::NOT_FOUND, message)
        }
    }
}

async fn agent_services(State(consul): State<Consul>) -> Response {
    let (entries, index) = consul.registry.list(|_| true);
    answer::indexed(index, answer::agent_services(&entries))
}

async fn agent_checks(State(consul): State<Consul>) -> Response {
    let (entries, index) = consul.registry.list(|_| true);
    answer::indexed(index, answer::agent_checks(&entries))
}

async fn agent_self(State(consul): State<Consul>) -> Response {
    axum::Json(answer::agent_self(consul.address)).into_response()
}

async fn leader(State(consul): State<Consul>) -> Response {
    axum::Json(consul.address.to_string()).into_response()
}

async fn peers(State(consul): State<Consul>) -> Response {
    axum::Json([consul.address.to_string()]).into_response()
}

async fn health_service(
    State(consul): State<Consul>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    let wanted = match Wanted::parse(uri.query()) {
        Ok(wanted) => wanted,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, message),
    };
    wanted.wait(&consul.registry, &consul.draining).await;
    let (entries, index) = consul.registry.list(|entry| {
        entry.spec.service == name
            && wanted.tagged(entry)
            && (!wanted.passing || entry.health() == Health::Passing)
    });
    answer::indexed(index, answer::health(&entries))
}

async fn catalog_services(State(consul): State<Consul>, uri: Uri) -> Response {
    let wanted = match Wanted::parse(uri.query()) {
        Ok(wanted) => wanted,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, message),
    };
    wanted.wait(&consul.registry, &consul.draining).await;
    let (entries, index) = consul.registry.list(|_| true);
    answer::indexed(index, answer::services(&entries))
}

async fn catalog_service(
    State(consul): State<Consul>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    let wanted = match Wanted::parse(uri.query()) {
        Ok(wanted) => wanted,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, message),
    };
    wanted.wait(&consul.registry, &consul.draining).await;
    let (entries, index) = consul
        .registry
        .list(|entry| entry.spec.service == name && wanted.tagged(entry));
    answer::indexed(index, answer::catalog(&entries))
}
