//! The data plane of the mesh on one machine: a sidecar that is wire-compatible with linkerd2-proxy.
//!
//! ```text
//!   app --h2c or HTTP/1.1--> outbound 4140 --TLS 1.3, transport header, h2--> inbound 4143 --h2c or HTTP/1.1--> app
//!                               |                                                |
//!                      route, timeouts, retries,                       route, authorization,
//!                      P2C over endpoints, breakers                    rate limit, l5d-client-id
//! ```
//!
//! It takes the environment of linkerd2-proxy ([`Config`]) and hears the same control plane, but needs no redirected
//! connections: the app dials the outbound listener and names the destination (`l5d-dst-override`, else `:authority`
//! or `Host`). Who a peer is comes from its certificate alone; where it calls from means nothing on a machine that
//! all pods share.
//!
//! Where to start reading: [`Sidecar`] is a sidecar from start to end; `outbound/mod.rs`, `outbound/stack.rs` and
//! `inbound/mod.rs` each hold a stack of layers as one list, in the order in which a request meets them.

mod admin;
pub mod config;
mod control;
mod error;
mod front;
mod http;
mod identity;
mod inbound;
mod io;
pub mod metrics;
mod outbound;
mod policy;
mod sidecar;
#[cfg(feature = "testing")]
pub mod testing;
mod transport_header;
mod worker;

pub use config::{Config, ConfigError};
pub use error::{ProxyError, TransportError};
pub use identity::IdentityError;
pub use sidecar::Sidecar;
