//! The chassis as its users meet it: a real server and real clients over TCP, in one process.
#![expect(clippy::expect_used, clippy::panic, unreachable_pub, reason = "tests")]

mod deadlines;
mod fake;
mod lifecycle;
mod limits;
mod observability;
mod peers;
mod sidecar;
mod simulated;
