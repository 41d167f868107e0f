//! Metrics under Linkerd's names.
//!
//! The registry is small and its own: a handle is one atomic that is resolved when a route or an endpoint is made,
//! so a request hashes no label; a histogram is a fixed row of buckets, so nothing grows between two scrapes; and
//! series of endpoints that are gone are dropped some time after their last handle.

mod labels;
mod process;
mod registry;
pub(crate) mod responses;

pub use labels::Labels;
pub use process::render as render_process;
pub use registry::{Counter, Gauge, Histogram, Registry};

/// Linkerd's bounds of `response_latency_ms`.
pub(crate) const LATENCY_MS: &[f64] = &[
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0,
    1_000.0, 2_000.0, 3_000.0, 4_000.0, 5_000.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0,
];
/// Linkerd's bounds of a route's request durations, in seconds.
pub(crate) const ROUTE_SECONDS: &[f64] = &[0.05, 0.5, 1.0, 10.0];
/// Linkerd's bounds of a backend's response durations, in seconds.
pub(crate) const BACKEND_SECONDS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];
