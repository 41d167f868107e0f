//! What a peer is called in metrics, and what is counted of it apart from the requests that it may send.

use std::net::SocketAddr;
use std::sync::OnceLock;

use crate::metrics::{Counter, Labels, Registry};
use crate::policy::meta::Meta;
use crate::policy::rate_limit::{RateLimit, Scope};

/// The labels of what a peer does at a port.
#[derive(Debug)]
pub(super) struct PeerLabels {
    target: Labels,
    /// `srv_*`.
    pub(super) server: Labels,
    /// `parent_*`: the same in newer families.
    pub(super) parent: Labels,
    tls: Labels,
}

impl PeerLabels {
    /// Of a peer with this name at the app's address, under a server's policy.
    pub(super) fn new(target: SocketAddr, server: &Meta, peer: &str) -> Self {
        let port = target.port();
        Self {
            target: Labels::new().with_target(target),
            server: server_labels(server, target),
            parent: server.inbound_labels("parent").with("parent_port", port),
            tls: Labels::new().with("tls", "true").with("client_id", peer),
        }
    }

    /// `target_*`, these, `tls`, `client_id`.
    pub(super) fn around(&self, labels: &Labels) -> Labels {
        self.target.clone().and(labels).and(&self.tls)
    }

    /// `target_*`, `srv_*`, `tls`, `client_id`.
    pub(super) fn of_server(&self) -> Labels {
        self.around(&self.server)
    }

    /// Those of the server with `authz_*`.
    pub(super) fn of_authorization(&self, authz: &Meta) -> Labels {
        self.around(&self.server.clone().and(&authz.inbound_labels("authz")))
    }
}

/// Counts requests that a policy refuses before or after its route is known: found once, as a peer may send many.
#[derive(Debug)]
pub(super) struct Refusals {
    registry: Registry,
    peer: PeerLabels,
    limit: Option<Meta>,
    no_route: OnceLock<Counter>,
    limited: [OnceLock<Counter>; 3],
}

impl Refusals {
    /// Of a peer, under a policy with this rate limit.
    pub(super) fn new(registry: &Registry, peer: PeerLabels, limit: Option<&RateLimit>) -> Self {
        Self {
            registry: registry.clone(),
            peer,
            limit: limit.and_then(|limit| limit.meta.clone()),
            no_route: OnceLock::new(),
            limited: [const { OnceLock::new() }; 3],
        }
    }

    /// Whose they are.
    pub(super) fn peer(&self) -> &PeerLabels {
        &self.peer
    }

    /// No route matches.
    pub(super) fn no_route(&self) {
        let find = || {
            self.registry.counter(
                "inbound_http_route_not_found_total",
                "Requests that no route matches.",
                &self.peer.of_server(),
            )
        };
        self.no_route.get_or_init(find).increment();
    }

    /// A rate limit is exceeded.
    pub(super) fn limited(&self, scope: Scope) {
        let find = || {
            let server = self.peer.server.clone();
            let labels = match &self.limit {
                Some(limit) => server.and(&limit.inbound_labels("ratelimit")),
                None => server,
            };
            self.registry.counter(
                "inbound_http_local_ratelimit_total",
                "Requests that a rate limit refused.",
                &self
                    .peer
                    .around(&labels.with("ratelimit_scope", scope.label())),
            )
        };
        self.limited[scope as usize].get_or_init(find).increment();
    }
}

/// `srv_*`.
pub(super) fn server_labels(server: &Meta, target: SocketAddr) -> Labels {
    server.inbound_labels("srv").with("srv_port", target.port())
}

/// Counts what is decided of a connection of bytes, each time that its port's policy changes.
#[derive(Debug)]
pub(super) struct BytesAuthz<'a> {
    registry: &'a Registry,
    target: SocketAddr,
    peer: &'a str,
    admitted: bool,
}

impl<'a> BytesAuthz<'a> {
    /// Of a peer's connection to the app's address.
    pub(super) fn new(registry: &'a Registry, target: SocketAddr, peer: &'a str) -> Self {
        Self {
            registry,
            target,
            peer,
            admitted: false,
        }
    }

    /// It is let in by this authorization, or by none. That it still is is not counted.
    pub(super) fn decided(&mut self, server: &Meta, authz: Option<&Meta>) {
        let before = std::mem::replace(&mut self.admitted, authz.is_some());
        let labels = PeerLabels::new(self.target, server, self.peer);
        let (name, help, labels) = match (before, authz) {
            (true, Some(_)) => return,
            (false, Some(authz)) => (
                "inbound_tcp_authz_allow_total",
                "Connections that were authorized.",
                labels.of_authorization(authz),
            ),
            (false, None) => (
                "inbound_tcp_authz_deny_total",
                "Connections that were denied.",
                labels.of_server(),
            ),
            (true, None) => (
                "inbound_tcp_authz_terminate_total",
                "Connections that were ended because they are authorized no more.",
                labels.of_server(),
            ),
        };
        self.registry.counter(name, help, &labels).increment();
    }
}
