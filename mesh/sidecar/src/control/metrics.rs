//! What is counted of requests to the control plane; a stream is one request until it ends.

use std::net::SocketAddr;

use tokio::time::Instant;
use tonic::Code;

use crate::http::observe::End;
use crate::metrics::responses::HttpMetrics;
use crate::metrics::{Labels, Registry};

/// Requests to one address of the control plane.
#[derive(Debug)]
pub(crate) struct ControlMetrics(HttpMetrics);

impl ControlMetrics {
    /// Of requests to this address.
    pub(crate) fn new(registry: &Registry, address: SocketAddr) -> Self {
        let labels = Labels::new()
            .with("addr", address)
            .with("tls", "no_identity")
            .with("no_tls_reason", "loopback");
        Self(HttpMetrics::of_control(registry, &labels))
    }

    /// Counts a request.
    pub(crate) fn begin(&self) -> Instant {
        self.0.requests.increment();
        Instant::now()
    }

    /// Counts its end.
    pub(crate) fn end(&self, began: Instant, code: Code) {
        let end = End {
            status: http::StatusCode::OK,
            grpc_status: Some(code as u8),
            error: None,
            cancelled: false,
        };
        self.0.response(&end, began, Instant::now());
    }
}
