//! What every process of sagamesh needs: configuration, telemetry, the gRPC server, the channel to a peer, errors.
//!
//! A service's `main` is three lines: parse a configuration that flattens [`ChassisConfig`], call [`main()`], and in
//! its body build tonic services and hand them to [`Process::serve`]. Everything nondeterministic (clock,
//! randomness, listener, connector) is in [`Env`] and [`Listener`], so that the whole can run in a simulation;
//! waiting uses `tokio::time`.

pub mod admin;
pub mod backoff;
pub mod breaker;
pub mod channel;
pub mod config;
pub mod deadline;
pub mod env;
mod health;
pub mod listener;
pub mod methods;
pub mod metrics;
pub mod page;
pub mod problem;
pub mod process;
pub mod server;
pub mod tasks;
pub mod telemetry;
pub mod timestamp;
pub mod trace;

pub use backoff::Backoff;
pub use breaker::{Breaker, Permit, RetryAfter};
pub use channel::{PeerChannel, channel};
pub use config::{ChassisConfig, MeshConfig, ServerConfig, TelemetryConfig};
pub use env::{Clock, Connector, Entropy, Env};
pub use health::Readiness;
pub use listener::Listener;
pub use problem::{Domain, Problem, Violations};
pub use process::{Process, main, run};
pub use tasks::Tasks;
