//! A control plane for tests and benches: policies that its owner sets, and a certificate authority in memory.
//!
//! It serves all four APIs on one port, like the real one, and can be stopped and started again on the same port.

mod authority;
pub mod hostile;
pub mod linkerd;
pub mod policies;
mod services;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use linkerd2_proxy_api::destination::WeightedAddr;
use linkerd2_proxy_api::destination::destination_server::DestinationServer;
use linkerd2_proxy_api::identity::identity_server::IdentityServer;
use linkerd2_proxy_api::inbound::Server;
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPoliciesServer;
use linkerd2_proxy_api::outbound::OutboundPolicy;
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPoliciesServer;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;

pub use authority::Authority;

use crate::Config;
use crate::config::{ControlConfig, DefaultPolicy, IdentityConfig, InboundConfig, OutboundConfig};

/// The token that the control plane accepts.
pub const TOKEN: &str = "a token";

/// A control plane for tests. A clone is the same.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    address: SocketAddr,
    state: Arc<State>,
    server: Arc<Mutex<Option<Running>>>,
}

/// A runtime of the control plane's own: with it end all of its connections, as when its process does.
#[derive(Debug)]
struct Running(Option<Runtime>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the control plane says.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) authority: Authority,
    pub(crate) policies: Book<String, OutboundPolicy>,
    pub(crate) endpoints: Book<String, Vec<WeightedAddr>>,
    /// By workload and port.
    pub(crate) servers: Book<(String, u16), Server>,
    /// The destinations behind addresses of Services: what a connection was meant for, where a proxy is told no name.
    pub(crate) services: Mutex<HashMap<SocketAddr, String>>,
}

/// Things that are looked up and may change; one that was never set is waited for or missing, as the API has it.
#[derive(Debug)]
pub(crate) struct Book<K, V>(Mutex<HashMap<K, watch::Sender<Option<V>>>>);

impl<K: std::hash::Hash + Eq, V: Clone> Book<K, V> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn set(&self, key: K, value: V) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.entry(key)
            .or_insert_with(|| watch::Sender::new(None))
            .send_replace(Some(value));
    }

    pub(crate) fn follow(&self, key: K) -> watch::Receiver<Option<V>> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.entry(key)
            .or_insert_with(|| watch::Sender::new(None))
            .subscribe()
    }
}

impl ControlPlane {
    /// Starts on a free port of loopback.
    ///
    /// # Errors
    /// If no port is free, or the authority cannot be made.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with_authority(Authority::new()?).await
    }

    /// Starts with this certificate authority.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn with_authority(authority: Authority) -> anyhow::Result<Self> {
        let state = State {
            authority,
            policies: Book::new(),
            endpoints: Book::new(),
            servers: Book::new(),
            services: Mutex::default(),
        };
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let plane = Self {
            address: listener.local_addr()?,
            state: Arc::new(state),
            server: Arc::default(),
        };
        plane.serve(listener)?;
        Ok(plane)
    }

    fn serve(&self, listener: std::net::TcpListener) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control-plane")
            .enable_all()
            .build()?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let services = services::Services(Arc::clone(&self.state));
        let server = tonic::transport::Server::builder()
            .add_service(DestinationServer::new(services.clone()))
            .add_service(OutboundPoliciesServer::new(services.clone()))
            .add_service(InboundServerPoliciesServer::new(services.clone()))
            .add_service(IdentityServer::new(services))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // Errors of single connections are the clients' to notice.
        runtime.spawn(server);
        let server = Running(Some(runtime));
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        Ok(())
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificate authority.
    pub fn authority(&self) -> &Authority {
        &self.state.authority
    }

    /// Sets the policy of the destination `authority` (`name:port`).
    pub fn set_policy(&self, authority: &str, policy: OutboundPolicy) {
        self.state.policies.set(authority.to_owned(), policy);
    }

    /// Makes `service` an address of the destination `authority`.
    pub fn set_service(&self, service: SocketAddr, authority: &str) {
        let mut services = self
            .state
            .services
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        services.insert(service, authority.to_owned());
    }

    /// Sets the endpoints of `path`.
    pub fn set_endpoints(&self, path: &str, endpoints: Vec<WeightedAddr>) {
        self.state.endpoints.set(path.to_owned(), endpoints);
    }

    /// Sets the policy of a port of `workload`.
    pub fn set_server(&self, workload: &str, port: u16, server: Server) {
        self.state.servers.set((workload.to_owned(), port), server);
    }

    /// Ends all connections and listens no more.
    pub fn stop(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        drop(server.take());
    }

    /// Listens again, where it did before.
    ///
    /// # Errors
    /// If the port was taken meanwhile.
    pub async fn restart(&self) -> std::io::Result<()> {
        // What is left of its last life ends in the background, which takes a moment.
        let mut tries = 0;
        let listener = loop {
            match std::net::TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) if tries == 1000 => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            tries += 1;
        };
        self.serve(listener)
    }

    /// The configuration of a sidecar of `workload` with the pod address `ip`; its token is in `token_file`, which
    /// holds [`TOKEN`].
    pub fn config(&self, workload: &str, ip: IpAddr, token_file: &std::path::Path) -> Config {
        Config {
            control: ControlConfig {
                destination: self.address,
                policy: self.address,
                identity: self.address,
                workload: workload.to_owned(),
                destination_context: String::new(),
            },
            identity: IdentityConfig {
                token_file: token_file.to_owned(),
                trust_anchors: self.authority().anchors(),
                local_name: identity_of(workload),
            },
            inbound: InboundConfig {
                listen: SocketAddr::new(ip, 0),
                ips: vec![ip],
                ports: Vec::new(),
                default_policy: DefaultPolicy::Deny,
                max_in_flight: 10_000,
                max_connections: 8192,
                max_handshakes: 512,
            },
            outbound: OutboundConfig {
                listen: vec![SocketAddr::new(ip, 0)],
                discovery_idle: Duration::from_secs(5),
                max_in_flight: 10_000,
                max_connections: 8192,
            },
            admin_listen: SocketAddr::new(ip, 0),
            shutdown_grace: Duration::from_secs(10),
            log: "warn".to_owned(),
            log_json: false,
            cores: 1,
            exit_with_parent: false,
        }
    }
}

/// The identity of a workload: its service account has its name.
pub fn identity_of(workload: &str) -> String {
    format!("{workload}.sagamesh.serviceaccount.identity.linkerd.cluster.local")
}
