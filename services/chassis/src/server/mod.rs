//! The gRPC server: one ordered list of layers, connections that drain with a hard deadline.

mod connections;
mod deadline;
mod details;
mod guests;
mod message_limit;
mod observe;
mod panics;
mod shed;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use http::{Request, Response};
use hyper::body::Incoming;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceBuilder;

pub use connections::{Connections, Protocol};

use crate::admin::Admin;
use crate::methods::Methods;
use crate::process::Process;
use crate::tasks::Tasks;

/// Largest reflection request: names are short.
const REFLECTION_LIMIT: usize = 16 * 1024;

/// Serves `routes` with everything around it, until the drain is over.
pub(crate) async fn serve(
    process: Process,
    mut routes: Routes,
    services: &[&'static str],
) -> anyhow::Result<()> {
    let config = &process.config.server;
    routes = routes.add_service(process.readiness.service());
    if config.reflection {
        // Only what is served is listed, although the descriptors know every contract.
        let mut builder = [(); 2].map(|()| tonic_reflection::server::Builder::configure());
        builder = builder.map(|mut builder| {
            builder = builder
                .register_encoded_file_descriptor_set(sagamesh_api::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // So that clients that know nothing but reflection can read the details of errors.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
            for service in services.iter().chain(&["grpc.health.v1.Health"]) {
                builder = builder.with_service_name(*service);
            }
            builder
        });
        let [v1, v1alpha] = builder;
        routes = routes
            .add_service(
                v1.build_v1()
                    .context("cannot build reflection")?
                    .max_decoding_message_size(REFLECTION_LIMIT),
            )
            .add_service(
                v1alpha
                    .build_v1alpha()
                    .context("cannot build reflection")?
                    .max_decoding_message_size(REFLECTION_LIMIT),
            );
    }

    let streams_end = CancellationToken::new();
    let methods = Arc::new(Methods::new(services));
    let domain = Arc::from(format!("{}.sagamesh", process.service));
    // From the outside in; a request passes them from the top to the bottom.
    let stack = ServiceBuilder::new()
        // First, so that it sees every answer, refusals and panics included: span, trace context, metrics.
        .layer(observe::ObserveLayer::new(methods, domain))
        // Inside the metrics, around everything that runs foreign code: a panic becomes INTERNAL.
        .layer(panics::PanicLayer)
        // Before any work is done: above the limit RESOURCE_EXHAUSTED + RetryInfo; a permit is held until the body ends.
        .layer(shed::ShedLayer::new(config.max_concurrent_requests))
        // Around the handler alone, so that the time is the handler's: the deadline, and the task-local that hands it on.
        .layer(deadline::DeadlineLayer::new(
            config.default_deadline,
            streams_end.clone(),
        ))
        // Next to the decoder: a message that is too large is refused when its length is known, not when it is here.
        .layer(message_limit::MessageLimitLayer::new(
            config.max_request_bytes,
        ))
        .service(routes.prepare());

    serve_connections(
        process,
        Protocol::Http2,
        move |_peer| stack.clone(),
        services,
        streams_end,
    )
    .await;
    Ok(())
}

/// Serves what `make` gives for each connection, until the drain is over. Cancels `streams_end` when half of the
/// drain's time is over: streams that did not end by themselves.
pub(crate) async fn serve_connections<M, S, B>(
    process: Process,
    protocol: Protocol,
    make: M,
    services: &[&'static str],
    streams_end: CancellationToken,
) where
    M: Fn(SocketAddr) -> S,
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tonic::codegen::StdError>,
{
    process.readiness.serving(services);
    tracing::info!(service = process.service, address = %process.grpc_addr(), "ready");
    let Process {
        tasks,
        config,
        readiness,
        ..
    } = &process;
    let config = &config.server;
    let connections = Connections {
        listener: process.grpc.clone(),
        protocol,
        max_streams: config.max_concurrent_requests,
        max_connections: config.max_connections,
        max_per_address: match protocol {
            Protocol::Http2 => usize::MAX,
            Protocol::Any => config.max_connections_per_address,
        },
    };
    let drain = async {
        tasks.draining().cancelled().await;
        // First of all: whoever watches health sends new work elsewhere.
        readiness.draining();
        tokio::time::sleep(config.drain_delay).await;
    };
    let end_streams = async {
        tokio::time::sleep(config.drain_timeout / 2).await;
        streams_end.cancel();
    };
    connections
        .serve(make, drain, end_streams, config.drain_timeout)
        .await;
    tasks.token().cancel();
}

/// Serves the admin port as an owned task, until the tasks end.
pub(crate) fn serve_admin(process: &Process, metrics: PrometheusHandle) {
    let tasks: Tasks = process.tasks.clone();
    let connections = Connections {
        listener: process.admin.clone(),
        protocol: Protocol::Any,
        max_streams: 64,
        max_connections: 256,
        max_per_address: usize::MAX,
    };
    let admin = Admin {
        readiness: process.readiness.clone(),
        metrics: metrics.clone(),
    };
    let service = tower::service_fn(move |request| std::future::ready(admin.answer(&request)));
    let token = tasks.token();
    process.tasks.spawn_essential("admin", async move {
        connections
            .serve(
                move |_peer| service.clone(),
                token.cancelled_owned(),
                std::future::pending(),
                std::time::Duration::from_millis(200),
            )
            .await;
    });
    let token = tasks.token();
    process.tasks.spawn("metrics upkeep", async move {
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(5));
        while token.run_until_cancelled(tick.tick()).await.is_some() {
            metrics.run_upkeep();
        }
    });
}

/// The frame that ends a gRPC answer with this status.
fn trailers(status: &tonic::Status) -> http_body::Frame<bytes::Bytes> {
    let mut trailers = http::HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(
            "grpc-status",
            http::HeaderValue::from(i32::from(status.code())),
        );
    }
    http_body::Frame::trailers(trailers)
}
