//! A workload's port as its own proxy is told of it: who may call what, and how often.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use inbound::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque, Tls};
use linkerd2_proxy_api::inbound;
use linkerd2_proxy_api::net;

use super::{GATEWAY_API, LINKERD, default, duration, matching, resource};
use crate::policy::explain::server_for;
use crate::policy::{
    Authorization, Cidr, Clients, InboundRoute, Policy, RateLimit, Server, ServerProtocol,
    all_networks,
};

/// How long a connection's protocol is looked for.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The proxy's own admin port. It asks for this one too, and without an answer that lets everyone in nobody could scrape it.
const PROXY_ADMIN: u16 = 4191;

/// What a pod is to the policy.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its ports by name.
    pub ports: &'a BTreeMap<String, u16>,
}

/// The policy for `port` of a pod. A port that no Server selects lets nobody in.
pub fn server(policy: &Policy, pod: Pod<'_>, port: u16) -> inbound::Server {
    let found = server_for(policy, pod.namespace, pod.labels, |server| {
        server.port.number(pod.ports) == Some(port)
    });
    match found {
        Some(server) => of_server(server),
        None if port == PROXY_ADMIN => of_nothing("all-unauthenticated", &[open()]),
        None => of_nothing("deny", &[]),
    }
}

fn open() -> Authorization {
    Authorization {
        policy: None,
        default: "all-unauthenticated",
        networks: all_networks(),
        clients: Clients::Unauthenticated,
    }
}

fn of_nothing(name: &str, authorizations: &[Authorization]) -> inbound::Server {
    inbound::Server {
        protocol: Some(inbound::ProxyProtocol {
            kind: Some(Kind::Detect(Detect {
                timeout: Some(duration(DETECT_TIMEOUT)),
                http_routes: vec![any_http_route()],
                http_local_rate_limit: None,
            })),
        }),
        server_ips: Vec::new(),
        authorizations: authorizations.iter().map(authz).collect(),
        labels: labels("", "default", name),
    }
}

fn of_server(server: &Server) -> inbound::Server {
    let http_routes = || -> Vec<inbound::HttpRoute> {
        if server.routes.is_empty() {
            return vec![any_http_route()];
        }
        server.routes.iter().map(http_route).collect()
    };
    let limit = || server.rate_limit.as_ref().map(rate_limit);
    let kind = match server.protocol {
        ServerProtocol::Detect => Kind::Detect(Detect {
            timeout: Some(duration(DETECT_TIMEOUT)),
            http_routes: http_routes(),
            http_local_rate_limit: limit(),
        }),
        ServerProtocol::Http1 => Kind::Http1(Http1 {
            routes: http_routes(),
            local_rate_limit: limit(),
        }),
        ServerProtocol::Http2 => Kind::Http2(Http2 {
            routes: http_routes(),
            local_rate_limit: limit(),
        }),
        ServerProtocol::Grpc => Kind::Grpc(Grpc {
            routes: if server.routes.is_empty() {
                vec![any_grpc_route()]
            } else {
                server.routes.iter().map(grpc_route).collect()
            },
        }),
        ServerProtocol::Opaque => Kind::Opaque(Opaque {}),
        ServerProtocol::Tls => Kind::Tls(Tls {}),
    };
    inbound::Server {
        protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations: server.authorizations.iter().map(authz).collect(),
        labels: labels(LINKERD, "server", &server.key.name),
    }
}

fn labels(group: &str, kind: &str, name: &str) -> HashMap<String, String> {
    [("group", group), ("kind", kind), ("name", name)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn any_http_route() -> inbound::HttpRoute {
    inbound::HttpRoute {
        metadata: Some(default("default")),
        hosts: Vec::new(),
        authorizations: Vec::new(),
        rules: vec![inbound::http_route::Rule {
            matches: vec![matching::anything()],
            filters: Vec::new(),
        }],
    }
}

fn any_grpc_route() -> inbound::GrpcRoute {
    inbound::GrpcRoute {
        metadata: Some(default("default")),
        hosts: Vec::new(),
        authorizations: Vec::new(),
        rules: vec![inbound::grpc_route::Rule {
            matches: matching::grpc(&[]),
            filters: Vec::new(),
        }],
    }
}

fn http_route(route: &InboundRoute) -> inbound::HttpRoute {
    inbound::HttpRoute {
        metadata: Some(resource(GATEWAY_API, route.kind.as_str(), &route.key, 0)),
        hosts: Vec::new(),
        authorizations: route.authorizations.iter().map(authz).collect(),
        rules: route
            .rules
            .iter()
            .map(|matches| inbound::http_route::Rule {
                matches: matching::http(matches),
                filters: Vec::new(),
            })
            .collect(),
    }
}

fn grpc_route(route: &InboundRoute) -> inbound::GrpcRoute {
    inbound::GrpcRoute {
        metadata: Some(resource(GATEWAY_API, route.kind.as_str(), &route.key, 0)),
        hosts: Vec::new(),
        authorizations: route.authorizations.iter().map(authz).collect(),
        rules: route
            .rules
            .iter()
            .map(|matches| inbound::grpc_route::Rule {
                matches: matching::grpc(matches),
                filters: Vec::new(),
            })
            .collect(),
    }
}

fn authz(authorization: &Authorization) -> inbound::Authz {
    use inbound::authn::permit_mesh_tls::{Clients as Who, PermitClientIdentities};
    use inbound::authn::{Permit, PermitMeshTls, PermitUnauthenticated};
    let (metadata, labels) = match &authorization.policy {
        Some(key) => (
            resource(LINKERD, "authorizationpolicy", key, 0),
            labels(LINKERD, "authorizationpolicy", &key.name),
        ),
        None => (
            default(authorization.default),
            labels("", "default", authorization.default),
        ),
    };
    let permit = match &authorization.clients {
        Clients::Unauthenticated => Permit::Unauthenticated(PermitUnauthenticated {}),
        Clients::Identities { names, suffixes } => {
            let identities = names
                .iter()
                .map(|name| inbound::Identity { name: name.clone() });
            let suffixes = suffixes.iter().map(|parts| inbound::IdentitySuffix {
                parts: parts.clone(),
            });
            Permit::MeshTls(PermitMeshTls {
                clients: Some(Who::Identities(PermitClientIdentities {
                    identities: identities.collect(),
                    suffixes: suffixes.collect(),
                })),
            })
        }
    };
    inbound::Authz {
        networks: authorization
            .networks
            .iter()
            .map(|network| inbound::Network {
                net: Some(ip_network(network.net)),
                except: network.except.iter().copied().map(ip_network).collect(),
            })
            .collect(),
        authentication: Some(inbound::Authn {
            permit: Some(permit),
        }),
        labels,
        metadata: Some(metadata),
    }
}

fn ip_network(cidr: Cidr) -> net::IpNetwork {
    net::IpNetwork {
        ip: Some(net::IpAddress::from(cidr.ip)),
        prefix_len: u32::from(cidr.prefix),
    }
}

fn rate_limit(limit: &RateLimit) -> inbound::HttpLocalRateLimit {
    use inbound::http_local_rate_limit::{Limit, Override, r#override::ClientIdentities};
    let rate = |requests_per_second| Limit {
        requests_per_second,
    };
    inbound::HttpLocalRateLimit {
        metadata: Some(resource(LINKERD, "HTTPLocalRateLimitPolicy", &limit.key, 0)),
        total: limit.total.map(rate),
        identity: limit.identity.map(rate),
        overrides: limit
            .overrides
            .iter()
            .map(|(requests_per_second, identities)| Override {
                limit: Some(rate(*requests_per_second)),
                clients: Some(ClientIdentities {
                    identities: identities
                        .iter()
                        .map(|name| inbound::Identity { name: name.clone() })
                        .collect(),
                }),
            })
            .collect(),
    }
}
