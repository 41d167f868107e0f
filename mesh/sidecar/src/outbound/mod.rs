//! The side that the app calls: from the app's plain HTTP to a peer's mTLS.

mod balance;
mod breaker;
mod destinations;
mod distribute;
mod endpoint;
mod filters;
mod load;
mod measure;
pub(crate) mod overrides;
mod profile;
pub(crate) mod replay;
mod retry;
mod stack;
pub(crate) mod timeouts;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

use crate::control::Control;
use crate::front::{Respond, RespondLayer, Shed, ShedLayer};
use crate::http::server::{self, Violations, limits};
use crate::http::{RequestBody, Response};
use crate::identity::Identity;
use crate::io::{Io, TcpCounts};
use crate::metrics::errors::Errors;
use crate::metrics::{Labels, Registry};
pub(crate) use breaker::Breakers;
use destinations::Destinations;

/// How long an app may take until it says which HTTP it speaks.
const DETECT: Duration = Duration::from_secs(10);

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Policies and endpoints.
    pub(crate) control: Control,
    /// Certificates.
    pub(crate) identity: Arc<Identity>,
    /// Metrics.
    pub(crate) registry: Registry,
    /// The pod's address: the source of connections to peers.
    pub(crate) source: Option<IpAddr>,
    /// The pod's addresses.
    pub(crate) local_ips: Vec<IpAddr>,
    /// The port at which peers reach this proxy.
    pub(crate) inbound_port: u16,
    /// How long a destination without requests is kept.
    pub(crate) discovery_idle: Duration,
    /// Requests under way at one time.
    pub(crate) max_in_flight: usize,
    /// Requests under way now.
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// Each endpoint's breaker.
    pub(crate) breakers: Breakers,
}

impl Shared {
    /// Whether an endpoint is the pod itself. Where pods share an address, one that is reached through another proxy is
    /// another pod: without that, everybody there would be called past the mesh.
    pub(crate) fn is_self(&self, ip: IpAddr, inbound_port: Option<u16>) -> bool {
        self.local_ips.contains(&ip) && inbound_port.is_none_or(|port| port == self.inbound_port)
    }
}

/// The outbound side of one thread.
#[derive(Debug)]
pub(crate) struct Outbound {
    stack: Respond<Shed<Destinations>>,
    registry: Registry,
    violations: Violations,
}

impl Outbound {
    /// Builds it on the thread that uses it.
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        let name = "outbound_http_errors_total";
        let errors = Errors::new(&shared.registry, name, Labels::new());
        let stack = ServiceBuilder::new()
            // Outermost: whatever fails below is answered in the client's own terms.
            .layer(RespondLayer {
                errors: Arc::new(errors),
            })
            // Before any work: what cannot be served is refused at once.
            .layer(ShedLayer {
                in_flight: Arc::clone(&shared.in_flight),
                max: shared.max_in_flight,
                // There is one client: the app.
                share: None,
            })
            // By name to a destination, its route and the route's own stack.
            .service(Destinations::new(shared));
        Arc::new(Self {
            stack,
            registry: shared.registry.clone(),
            violations: Violations::new(&shared.registry, "outbound"),
        })
    }

    /// Serves a connection of the app's.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, drain: CancellationToken) {
        let version = tokio::select! {
            version = server::detect(&stream, DETECT) => version,
            () = drain.cancelled() => return,
        };
        let (Ok(version), Ok(target)) = (version, stream.local_addr()) else {
            return;
        };
        let labels = Labels::new()
            .with("direction", "outbound")
            .with("peer", "src")
            .with_target(target)
            .with("tls", "no_identity")
            .with("no_tls_reason", "loopback");
        let io = Io::plain(stream, TcpCounts::new(&self.registry, &labels));
        let outbound = Arc::clone(&self);
        let respond = move |request: http::Request<Incoming>| {
            let outbound = Arc::clone(&outbound);
            async move { outbound.respond(request).await }
        };
        server::serve(
            io,
            version,
            limits::APP_STREAMS,
            drain,
            &self.violations,
            respond,
        )
        .await;
    }

    async fn respond(&self, request: http::Request<Incoming>) -> Response {
        self.stack
            .respond(Box::new(request.map(RequestBody::from)), true)
            .await
    }

    /// Forgets destinations without requests.
    pub(crate) fn forget_idle(&self, now: Instant) {
        self.stack.inner().inner().forget_idle(now);
    }
}
