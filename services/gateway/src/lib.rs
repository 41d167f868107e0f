//! The one door to the system: REST + JSON, gRPC and gRPC-Web on one port, behind JSON Web Tokens and rate limits.
//!
//! The gateway keeps no state of its own. It knows who calls (`auth`), how often (`limits`), calls the services for them (`grpc`, `rest`), joins their
//! answers (`compose`), and says what went wrong in the caller's language (`problem`).

mod anonymous;
pub mod auth;
mod backends;
mod compose;
pub mod config;
pub mod dev_key;
mod door;
pub mod gateway;
pub mod grpc;
mod held;
pub mod jwks;
pub mod keys;
pub mod limits;
mod patience;
pub mod problem;
pub mod rest;
mod sagas;
#[cfg(feature = "testing")]
pub mod testing;
mod watch;

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ConnectInfo;
use tower::ServiceExt as _;

pub use config::Config;
pub use gateway::Gateway;

pub(crate) const ERRORS: chassis::Domain = chassis::Domain("gateway.sagamesh");

/// Serves until shutdown begins, then drains.
///
/// # Errors
/// The key set cannot be had, or the configuration is wrong.
pub async fn run(config: Config, process: chassis::Process) -> anyhow::Result<()> {
    let keys = keys::Keys::load(&config.auth, &process.tasks)?;
    let gateway = Gateway::new(&config, keys, &process.env).draining_with(process.tasks.draining());
    let app = gateway.app(&config)?;

    let limits = std::sync::Arc::clone(&gateway.limits);
    let token = process.tasks.token();
    process.tasks.spawn("rate limit sweep", async move {
        let mut tick = tokio::time::interval(Duration::from_secs(10));
        while token.run_until_cancelled(tick.tick()).await.is_some() {
            limits.sweep();
        }
    });

    let make = move |peer: SocketAddr| {
        app.clone()
            .map_request(move |mut request: http::Request<_>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                request
            })
    };
    process.serve_http(make).await;
    Ok(())
}
