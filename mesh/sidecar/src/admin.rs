//! The admin port: /live, /ready and /metrics over plain HTTP, apart from the data path.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, Registry};

/// Connections at one time: probes and scrapers need few.
const CONNECTIONS: usize = 64;

/// What the admin port answers from.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// The sidecar has a certificate and the policies of the app's ports, and is not shutting down.
    pub(crate) ready: watch::Receiver<bool>,
    /// Metrics.
    pub(crate) registry: Registry,
}

/// Serves until `stop`.
pub(crate) async fn serve(admin: Admin, listener: TcpListener, stop: CancellationToken) {
    let permits = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = std::sync::Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let admin = admin.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| {
                let response = admin.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A client that goes away is none of our business.
                _ = connection => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/live") => (StatusCode::OK, "live\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/ready") if *self.ready.borrow() => {
                (StatusCode::OK, "ready\n".to_owned())
            }
            (&Method::GET | &Method::HEAD, "/ready") => {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
            }
            (&Method::GET | &Method::HEAD, "/metrics") => (
                StatusCode::OK,
                self.registry.render() + &metrics::render_process(),
            ),
            (_, "/live" | "/ready" | "/metrics") => {
                (StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned())
            }
            _ => (
                StatusCode::NOT_FOUND,
                "here are /live, /ready and /metrics\n".to_owned(),
            ),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        response
    }
}
