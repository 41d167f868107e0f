//! What the control plane says: long-lived streams, one for each thing asked, shared by all threads.
//!
//! While the control plane is away, what it said last stays in use, and nothing that was learned is forgotten.

pub(crate) mod backoff;
pub(crate) mod endpoints;
mod lookups;
pub(crate) mod metrics;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use linkerd2_proxy_api::destination::destination_client::DestinationClient;
use linkerd2_proxy_api::identity::identity_client::IdentityClient;
use linkerd2_proxy_api::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use linkerd2_proxy_api::outbound::outbound_policies_client::OutboundPoliciesClient;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::config::{Config, ControlConfig, DefaultPolicy};
use crate::metrics::Registry;
use crate::policy::inbound::ServerPolicy;
use crate::policy::outbound::ClientPolicy;
use endpoints::Endpoints;
use lookups::Lookups;

/// Destinations and endpoint sets that are followed at one time.
const MAX_DESTINATIONS: usize = 1024;
/// Ports whose policies are followed at one time.
const MAX_PORTS: usize = 256;
/// How long the first answer for a port of the app is waited for, before the default applies.
pub(crate) const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// What is known of a destination's policy.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// The control plane has not answered.
    NotYet,
    /// Its policy.
    Policy(Arc<ClientPolicy>),
    /// There is no such destination.
    Unknown,
    /// Its policy cannot be understood.
    Invalid(Arc<str>),
}

/// The control plane. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    runtime: Handle,
    stop: CancellationToken,
    healthy: AtomicBool,
    destination: Channel,
    policy: Channel,
    identity: Channel,
    /// Where all of it is, and what it is told of this workload.
    addresses: ControlConfig,
    default_policy: DefaultPolicy,
    policies: Lookups<Arc<str>, Known>,
    endpoints: Lookups<Arc<str>, Arc<Endpoints>>,
    servers: Lookups<u16, Arc<ServerPolicy>>,
    registry: Registry,
}

impl Control {
    /// Streams run on `runtime` until `stop`. Connects when first asked.
    pub(crate) fn new(
        config: &Config,
        registry: &Registry,
        runtime: Handle,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            runtime,
            stop,
            healthy: AtomicBool::new(true),
            destination: channel(config.control.destination),
            policy: channel(config.control.policy),
            identity: channel(config.control.identity),
            addresses: config.control.clone(),
            default_policy: config.inbound.default_policy,
            policies: Lookups::new(MAX_DESTINATIONS),
            endpoints: Lookups::new(MAX_DESTINATIONS),
            servers: Lookups::new(MAX_PORTS),
            registry: registry.clone(),
        }))
    }

    /// A client of the Identity API.
    pub(crate) fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.0.identity.clone())
    }

    /// Whether the last that was heard of the control plane is an answer. While it is not, nothing is forgotten.
    pub(crate) fn is_healthy(&self) -> bool {
        self.0.healthy.load(Ordering::Relaxed)
    }

    fn set_healthy(&self, healthy: bool) {
        if self.0.healthy.swap(healthy, Ordering::Relaxed) != healthy {
            tracing::info!(healthy, "the control plane's state changed");
        }
    }

    /// Follows the policy of the destination called `authority`. `None` if too many are followed already.
    pub(crate) fn watch_policy(&self, authority: &str) -> Option<watch::Receiver<Known>> {
        let control = self.clone();
        let start = |key: Arc<str>, sender| self.spawn(streams::outbound(control, key, sender));
        self.0
            .policies
            .subscribe(authority.into(), Known::NotYet, start)
    }

    /// Follows the endpoints of `path`. `None` if too many are followed already.
    pub(crate) fn watch_endpoints(
        &self,
        path: &Arc<str>,
    ) -> Option<watch::Receiver<Arc<Endpoints>>> {
        let control = self.clone();
        let start = |key: Arc<str>, sender| self.spawn(streams::endpoints(control, key, sender));
        self.0
            .endpoints
            .subscribe(Arc::clone(path), Arc::default(), start)
    }

    /// Follows the policy of the app's port. `None` if too many are followed already.
    pub(crate) fn watch_server(&self, port: u16) -> Option<watch::Receiver<Arc<ServerPolicy>>> {
        let control = self.clone();
        let start = |port: u16, sender| self.spawn(streams::inbound(control, port, sender));
        self.0.servers.subscribe(
            port,
            Arc::new(ServerPolicy::of_default(self.0.default_policy)),
            start,
        )
    }

    fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.runtime.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = stream => {}
            }
        });
    }

    fn policies_client(&self) -> OutboundPoliciesClient<Channel> {
        OutboundPoliciesClient::new(self.0.policy.clone())
    }

    fn servers_client(&self) -> InboundServerPoliciesClient<Channel> {
        InboundServerPoliciesClient::new(self.0.policy.clone())
    }

    fn destination_client(&self) -> DestinationClient<Channel> {
        DestinationClient::new(self.0.destination.clone())
    }
}

/// Plain HTTP/2: the control plane is on loopback. Pings find out when it hangs.
fn channel(address: std::net::SocketAddr) -> Channel {
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query("/")
        .build();
    Endpoint::from(uri.unwrap_or_default())
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .connect_lazy()
}
