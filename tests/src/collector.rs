//! A collector of traces: it takes whatever is exported to it, and keeps the bytes.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running collector; it ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    url: String,
    received: Arc<Mutex<Vec<Bytes>>>,
    server: JoinHandle<()>,
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr().context("no address")?);
        let received = Arc::default();
        let server = tokio::spawn(serve(listener, Arc::clone(&received)));
        Ok(Self {
            url,
            received,
            server,
        })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The body of every request so far.
    pub fn received(&self) -> Vec<Bytes> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, received: Arc<Mutex<Vec<Bytes>>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let received = Arc::clone(&received);
            async move {
                // Half of a request is none.
                if let Ok(body) = request.into_body().collect().await {
                    let mut all = received.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(body.to_bytes());
                }
                Ok::<_, Infallible>(accepted())
            }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

/// An empty message would be five bytes more: a status alone says the same.
fn accepted() -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    let headers = response.headers_mut();
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "0")] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}
