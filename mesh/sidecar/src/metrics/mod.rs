//! Metrics under Linkerd's names.
//!
//! The registry is small and its own: a handle is one atomic that is resolved when a route or an endpoint is made,
//! so a request hashes no label; a histogram is a fixed row of buckets, so nothing grows between two scrapes; and
//! series of endpoints that are gone are dropped some time after their last handle.

pub(crate) mod errors;
mod handles;
mod labels;
mod process;
mod registry;
pub(crate) mod responses;

pub use handles::{Counter, FloatGauge, Gauge, Histogram};
pub use labels::Labels;
pub(crate) use process::describe;
pub use process::render as render_process;
pub use registry::Registry;

/// Linkerd's bounds of `response_latency_ms`.
pub(crate) const LATENCY_MS: &[f64] = &[
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0,
    1_000.0, 2_000.0, 3_000.0, 4_000.0, 5_000.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0,
];
/// Linkerd's bounds of durations that tell little, in seconds: requests on the way out, responses on the way in.
pub(crate) const FEW_SECONDS: &[f64] = &[0.05, 0.5, 1.0, 10.0];
/// Linkerd's bounds of durations that tell more, in seconds: responses on the way out, requests on the way in.
pub(crate) const MANY_SECONDS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];
/// Linkerd's bounds of the time that a request waits for an endpoint, in seconds.
pub(crate) const QUEUE_SECONDS: &[f64] = &[0.0005, 0.005, 0.05, 0.5, 1.0, 3.0];
/// Linkerd's bounds of the sizes of frames, in bytes.
pub(crate) const FRAME_BYTES: &[f64] = &[128.0, 1024.0, 10240.0];
