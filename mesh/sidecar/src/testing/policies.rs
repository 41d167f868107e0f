//! Policies with what tests and benches need, and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use linkerd2_proxy_api::destination::{
    ProtocolHint, TlsIdentity, WeightedAddr, protocol_hint, tls_identity,
};
use linkerd2_proxy_api::grpc_route::{GrpcRouteMatch, GrpcRpcMatch};
use linkerd2_proxy_api::http_route::{HttpRouteMatch, PathMatch, Timeouts, path_match};
use linkerd2_proxy_api::meta::{Metadata, Resource, metadata};
use linkerd2_proxy_api::{inbound, outbound};

/// A time as the API has it.
pub fn time(time: Duration) -> Option<prost_types::Duration> {
    time.try_into().ok()
}

/// The metadata of a resource.
pub fn meta(group: &str, kind: &str, name: &str, port: u16) -> Option<Metadata> {
    let resource = Resource {
        group: group.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: "sagamesh".to_owned(),
        section: String::new(),
        port: port.into(),
    };
    Some(Metadata {
        kind: Some(metadata::Kind::Resource(resource)),
    })
}

/// A backend that is balanced over the endpoints of `path`.
pub fn backend(path: &str) -> outbound::Backend {
    use outbound::backend::{BalanceP2c, EndpointDiscovery, Kind, balance_p2c, endpoint_discovery};
    let dst = endpoint_discovery::DestinationGet {
        path: path.to_owned(),
    };
    outbound::Backend {
        metadata: meta("core", "Service", path, 0),
        queue: Some(outbound::Queue {
            capacity: 100,
            failfast_timeout: time(Duration::from_secs(3)),
        }),
        kind: Some(Kind::Balancer(BalanceP2c {
            discovery: Some(EndpointDiscovery {
                kind: Some(endpoint_discovery::Kind::Dst(dst)),
            }),
            load: Some(balance_p2c::Load::PeakEwma(balance_p2c::PeakEwma {
                default_rtt: time(Duration::from_millis(30)),
                decay: time(Duration::from_secs(10)),
            })),
        })),
    }
}

/// A backend that is this one endpoint.
pub fn forward(endpoint: WeightedAddr) -> outbound::Backend {
    outbound::Backend {
        kind: Some(outbound::backend::Kind::Forward(endpoint)),
        ..backend("forward")
    }
}

/// A rule for every RPC of `service` (empty: of any) to `path`.
pub fn grpc_rule(service: &str, path: &str) -> outbound::grpc_route::Rule {
    grpc_rule_to(service, backend(path))
}

/// A rule for every RPC of `service` (empty: of any) to `backend`.
pub fn grpc_rule_to(service: &str, backend: outbound::Backend) -> outbound::grpc_route::Rule {
    use outbound::grpc_route::{Distribution, RouteBackend, Rule, distribution};
    let backend = RouteBackend {
        backend: Some(backend),
        ..Default::default()
    };
    Rule {
        matches: vec![grpc_match(service, "")],
        backends: Some(Distribution {
            kind: Some(distribution::Kind::FirstAvailable(
                distribution::FirstAvailable {
                    backends: vec![backend],
                },
            )),
        }),
        ..Default::default()
    }
}

/// A match for an RPC; empty texts are any.
pub fn grpc_match(service: &str, method: &str) -> GrpcRouteMatch {
    let rpc = GrpcRpcMatch {
        service: service.to_owned(),
        method: method.to_owned(),
    };
    GrpcRouteMatch {
        rpc: Some(rpc),
        headers: Vec::new(),
    }
}

/// A gRPC destination with one route of these rules.
pub fn grpc(
    rules: Vec<outbound::grpc_route::Rule>,
    accrual: Option<outbound::FailureAccrual>,
) -> outbound::OutboundPolicy {
    use outbound::proxy_protocol::{Grpc, Kind};
    let route = outbound::GrpcRoute {
        metadata: meta("gateway.networking.k8s.io", "GRPCRoute", "route", 0),
        hosts: Vec::new(),
        rules,
    };
    outbound::OutboundPolicy {
        metadata: meta("core", "Service", "service", 50051),
        protocol: Some(outbound::ProxyProtocol {
            kind: Some(Kind::Grpc(Grpc {
                routes: vec![route],
                failure_accrual: accrual,
            })),
        }),
    }
}

/// A destination whose protocol is to be detected: HTTP of any version, with one route and one rule, or bytes.
pub fn http(path: &str) -> outbound::OutboundPolicy {
    use outbound::http_route::{Distribution, RouteBackend, Rule, distribution};
    use outbound::proxy_protocol::{Detect, Http1, Http2, Kind, Opaque};
    let backend = backend(path);
    let rule = Rule {
        matches: vec![http_prefix("/")],
        backends: Some(Distribution {
            kind: Some(distribution::Kind::FirstAvailable(
                distribution::FirstAvailable {
                    backends: vec![RouteBackend {
                        backend: Some(backend.clone()),
                        ..Default::default()
                    }],
                },
            )),
        }),
        ..Default::default()
    };
    let routes = vec![outbound::HttpRoute {
        metadata: meta("gateway.networking.k8s.io", "HTTPRoute", "route", 0),
        hosts: Vec::new(),
        rules: vec![rule],
    }];
    let detect = Detect {
        timeout: time(Duration::from_secs(10)),
        http1: Some(Http1 {
            routes: routes.clone(),
            failure_accrual: None,
        }),
        http2: Some(Http2 {
            routes,
            failure_accrual: None,
        }),
        opaque: Some(Opaque {
            routes: vec![opaque_route(backend)],
        }),
    };
    outbound::OutboundPolicy {
        metadata: meta("core", "Service", "service", 8080),
        protocol: Some(outbound::ProxyProtocol {
            kind: Some(Kind::Detect(detect)),
        }),
    }
}

fn opaque_route(backend: outbound::Backend) -> outbound::OpaqueRoute {
    use outbound::opaque_route::{Distribution, RouteBackend, Rule, distribution};
    let backend = RouteBackend {
        backend: Some(backend),
        ..Default::default()
    };
    outbound::OpaqueRoute {
        metadata: meta("policy.linkerd.io", "TCPRoute", "route", 0),
        rules: vec![Rule {
            backends: Some(Distribution {
                kind: Some(distribution::Kind::FirstAvailable(
                    distribution::FirstAvailable {
                        backends: vec![backend],
                    },
                )),
            }),
            ..Default::default()
        }],
    }
}

/// A match for paths under `prefix`.
pub fn http_prefix(prefix: &str) -> HttpRouteMatch {
    let path = PathMatch {
        kind: Some(path_match::Kind::Prefix(prefix.to_owned())),
    };
    HttpRouteMatch {
        path: Some(path),
        ..Default::default()
    }
}

/// Timeouts of a rule.
pub fn timeouts(
    request: Option<Duration>,
    response: Option<Duration>,
    idle: Option<Duration>,
) -> Option<Timeouts> {
    Some(Timeouts {
        request: request.and_then(time),
        response: response.and_then(time),
        idle: idle.and_then(time),
    })
}

/// Retries of UNAVAILABLE.
pub fn retry(limit: u32, try_timeout: Option<Duration>) -> Option<outbound::grpc_route::Retry> {
    use outbound::grpc_route::retry::Conditions;
    Some(outbound::grpc_route::Retry {
        max_retries: limit,
        max_request_bytes: 64 * 1024,
        conditions: Some(Conditions {
            unavailable: true,
            ..Default::default()
        }),
        timeout: try_timeout.and_then(time),
        backoff: Some(backoff(Duration::from_millis(1), Duration::from_millis(10))),
    })
}

/// Failure accrual: out after so many failures in a row.
pub fn accrual(max_failures: u32, min: Duration) -> Option<outbound::FailureAccrual> {
    use outbound::failure_accrual::{ConsecutiveFailures, Kind};
    Some(outbound::FailureAccrual {
        ejection: None,
        kind: Some(Kind::ConsecutiveFailures(ConsecutiveFailures {
            max_failures,
            backoff: Some(backoff(min, min * 10)),
        })),
    })
}

fn backoff(min: Duration, max: Duration) -> outbound::ExponentialBackoff {
    outbound::ExponentialBackoff {
        min_backoff: time(min),
        max_backoff: time(max),
        jitter_ratio: 0.5,
        respect_retry_after_hint: false,
    }
}

/// An endpoint behind a sidecar, whose app listens on `app` and which is called `identity`.
pub fn endpoint(app: SocketAddr, inbound_port: u16, identity: &str) -> WeightedAddr {
    let name = tls_identity::DnsLikeIdentity {
        name: identity.to_owned(),
    };
    WeightedAddr {
        addr: Some(app.into()),
        weight: 10_000,
        metric_labels: [("pod".to_owned(), format!("pod-{}", app.port()))].into(),
        tls_identity: Some(TlsIdentity {
            server_name: Some(name.clone()),
            strategy: Some(tls_identity::Strategy::DnsLikeIdentity(name)),
        }),
        protocol_hint: Some(ProtocolHint {
            protocol: Some(protocol_hint::Protocol::H2(protocol_hint::H2 {})),
            opaque_transport: Some(protocol_hint::OpaqueTransport {
                inbound_port: inbound_port.into(),
            }),
        }),
        ..Default::default()
    }
}

/// An authorization of these clients; none is every client of the mesh.
pub fn authz(name: &str, identities: &[String]) -> inbound::Authz {
    use inbound::authn::permit_mesh_tls::{Clients, PermitClientIdentities};
    use inbound::authn::{Permit, PermitMeshTls, PermitUnauthenticated};
    let clients = if identities.is_empty() {
        Clients::Unauthenticated(PermitUnauthenticated {})
    } else {
        let identities = identities
            .iter()
            .map(|name| inbound::Identity { name: name.clone() })
            .collect();
        Clients::Identities(PermitClientIdentities {
            identities,
            suffixes: Vec::new(),
        })
    };
    let networks = ["0.0.0.0/0", "::/0"]
        .iter()
        .filter_map(|net| net.parse::<ipnet::IpNet>().ok());
    inbound::Authz {
        networks: networks
            .map(|net| inbound::Network {
                net: Some(net.into()),
                except: Vec::new(),
            })
            .collect(),
        authentication: Some(inbound::Authn {
            permit: Some(Permit::MeshTls(PermitMeshTls {
                clients: Some(clients),
            })),
        }),
        labels: Default::default(),
        metadata: meta("policy.linkerd.io", "AuthorizationPolicy", name, 0),
    }
}

/// A gRPC server with these routes and authorizations.
pub fn grpc_server(
    routes: Vec<inbound::GrpcRoute>,
    authorizations: Vec<inbound::Authz>,
) -> inbound::Server {
    use inbound::proxy_protocol::{Grpc, Kind};
    server(Kind::Grpc(Grpc { routes }), authorizations)
}

/// An HTTP server with one route for everything, and a rate limit.
pub fn http_server(
    limit: Option<inbound::HttpLocalRateLimit>,
    authorizations: Vec<inbound::Authz>,
) -> inbound::Server {
    use inbound::proxy_protocol::{Http2, Kind};
    server(
        Kind::Http2(Http2 {
            routes: Vec::new(),
            local_rate_limit: limit,
        }),
        authorizations,
    )
}

/// A server of bytes.
pub fn opaque_server(authorizations: Vec<inbound::Authz>) -> inbound::Server {
    use inbound::proxy_protocol::{Kind, Opaque};
    server(Kind::Opaque(Opaque {}), authorizations)
}

/// A server whose protocol is to be detected.
pub fn detect_server(authorizations: Vec<inbound::Authz>) -> inbound::Server {
    use inbound::proxy_protocol::{Detect, Kind};
    let detect = Detect {
        timeout: time(Duration::from_secs(10)),
        ..Default::default()
    };
    server(Kind::Detect(detect), authorizations)
}

/// A server of the proxy's own: whoever likes may look.
pub fn admin_server() -> inbound::Server {
    use inbound::authn::{Permit, PermitUnauthenticated};
    let mut anyone = authz("anyone", &[]);
    anyone.authentication = Some(inbound::Authn {
        permit: Some(Permit::Unauthenticated(PermitUnauthenticated {})),
    });
    let mut server = detect_server(vec![anyone]);
    server.labels.insert("name".to_owned(), "admin".to_owned());
    server
}

/// A gRPC route of a server, for one RPC, with authorizations of its own.
pub fn server_route(
    name: &str,
    service: &str,
    method: &str,
    authorizations: Vec<inbound::Authz>,
) -> inbound::GrpcRoute {
    inbound::GrpcRoute {
        metadata: meta("gateway.networking.k8s.io", "GRPCRoute", name, 0),
        hosts: Vec::new(),
        authorizations,
        rules: vec![inbound::grpc_route::Rule {
            matches: vec![grpc_match(service, method)],
            filters: Vec::new(),
        }],
    }
}

fn server(
    kind: inbound::proxy_protocol::Kind,
    authorizations: Vec<inbound::Authz>,
) -> inbound::Server {
    let labels = [
        ("group", "policy.linkerd.io"),
        ("kind", "server"),
        ("name", "server"),
    ];
    inbound::Server {
        protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations,
        labels: labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    }
}
