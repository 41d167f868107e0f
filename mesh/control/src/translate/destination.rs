//! Endpoints and profiles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use linkerd2_proxy_api::destination::{
    self, AddrSet, DestinationProfile, Http2ClientParams, NoEndpoints, ProtocolHint, RetryBudget,
    TlsIdentity, Update, WeightedAddr, WeightedAddrSet, http2_client_params, protocol_hint,
    tls_identity, update,
};

use super::{authority, duration, resource, tcp_address};
use crate::policy::Key;

/// The weight that says nothing.
const WEIGHT: u32 = 10_000;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Who answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the pod.
    pub pod: String,
    /// Its service account.
    pub service_account: Key,
    /// The sidecar's port and the identity of its certificate; `None` outside of the mesh.
    pub mesh: Option<(u16, String)>,
    /// Whether it speaks HTTP/2 without TLS.
    pub h2: bool,
}

/// Endpoints by address.
pub type Endpoints = BTreeMap<SocketAddr, Endpoint>;

/// An endpoint for a proxy.
pub fn weighted(address: SocketAddr, endpoint: &Endpoint) -> WeightedAddr {
    let name = |identity: &String| tls_identity::DnsLikeIdentity {
        name: identity.clone(),
    };
    let labels = [
        ("pod", endpoint.pod.clone()),
        ("serviceaccount", endpoint.service_account.name.clone()),
        ("namespace", endpoint.service_account.namespace.clone()),
        ("zone_locality", "unknown".to_owned()),
    ];
    WeightedAddr {
        addr: Some(tcp_address(address.ip(), address.port())),
        weight: WEIGHT,
        metric_labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
        tls_identity: endpoint.mesh.as_ref().map(|(_, identity)| TlsIdentity {
            strategy: Some(tls_identity::Strategy::DnsLikeIdentity(name(identity))),
            server_name: Some(name(identity)),
        }),
        protocol_hint: endpoint
            .mesh
            .as_ref()
            .map(|(inbound_port, _)| ProtocolHint {
                protocol: endpoint
                    .h2
                    .then_some(protocol_hint::Protocol::H2(protocol_hint::H2 {})),
                opaque_transport: Some(protocol_hint::OpaqueTransport {
                    inbound_port: u32::from(*inbound_port),
                }),
            }),
        authority_override: None,
        http2: Some(Http2ClientParams {
            keep_alive: Some(http2_client_params::KeepAlive {
                interval: Some(duration(KEEP_ALIVE_INTERVAL)),
                timeout: Some(duration(KEEP_ALIVE_TIMEOUT)),
                while_idle: true,
            }),
            ..Http2ClientParams::default()
        }),
        resource_ref: None,
    }
}

/// What a proxy that knows `before` is to be told so that it knows `after`. `before` is `None` at the start of a stream,
/// when something is always said. `service` exists or does not.
pub fn updates(
    service: &Key,
    exists: bool,
    before: Option<&Endpoints>,
    after: &Endpoints,
) -> Vec<Update> {
    let none = BTreeMap::new();
    let known = before.unwrap_or(&none);
    let mut updates = Vec::new();
    if after.is_empty() {
        if before.is_none() || !known.is_empty() {
            updates.push(update::Update::NoEndpoints(NoEndpoints { exists }));
        }
    } else {
        let added: Vec<_> = after
            .iter()
            .filter(|(address, endpoint)| known.get(*address) != Some(*endpoint))
            .map(|(address, endpoint)| weighted(*address, endpoint))
            .collect();
        let removed: BTreeSet<_> = known
            .keys()
            .filter(|address| !after.contains_key(*address))
            .collect();
        // The new ones first: between two messages there is always somebody to call.
        if !added.is_empty() {
            updates.push(update::Update::Add(WeightedAddrSet {
                addrs: added,
                metric_labels: service_labels(service),
            }));
        }
        if !removed.is_empty() {
            let addrs = removed
                .into_iter()
                .map(|address| tcp_address(address.ip(), address.port()));
            updates.push(update::Update::Remove(AddrSet {
                addrs: addrs.collect(),
            }));
        }
    }
    updates
        .into_iter()
        .map(|update| Update {
            update: Some(update),
        })
        .collect()
}

fn service_labels(service: &Key) -> HashMap<String, String> {
    [
        ("service", service.name.clone()),
        ("namespace", service.namespace.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The profile of a Service's port. It has no routes: they would hide the policy's.
pub fn service_profile(service: &Key, port: u16, opaque: bool) -> DestinationProfile {
    let name = authority::name(service, port);
    let host = name.rsplit_once(':').map_or("", |(host, _)| host);
    DestinationProfile {
        fully_qualified_name: host.to_owned(),
        opaque_protocol: opaque,
        parent_ref: Some(resource("core", "Service", service, port)),
        ..any_profile()
    }
}

/// The profile of a pod's address: how its sidecar is reached.
pub fn endpoint_profile(address: SocketAddr, endpoint: &Endpoint) -> DestinationProfile {
    DestinationProfile {
        endpoint: Some(weighted(address, endpoint)),
        ..any_profile()
    }
}

/// The profile of everything else.
pub fn any_profile() -> DestinationProfile {
    DestinationProfile {
        retry_budget: Some(RetryBudget {
            retry_ratio: 0.2,
            min_retries_per_second: 10,
            ttl: Some(duration(Duration::from_secs(10))),
        }),
        ..destination::DestinationProfile::default()
    }
}
