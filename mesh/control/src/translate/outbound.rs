//! A Service's port as a caller's proxy is told of it: protocol, routes, retries, timeouts, failure accrual.

use std::time::Duration;

use linkerd2_proxy_api::{http_route, outbound};
use outbound::proxy_protocol::{Detect, Grpc, Http1, Http2, Kind, Opaque};

use super::{GATEWAY_API, authority, default, duration, matching, resource};
use crate::policy::{
    Accrual, AppProtocol, Backend, Key, Retry, Route, RouteKind, Service, ServicePort, Timeouts,
};

/// How long a connection's protocol is looked for.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What waits for an endpoint at most, and how long, before requests fail at once.
const QUEUE_CAPACITY: u32 = 100;
const FAILFAST: Duration = Duration::from_secs(3);
/// Of P2C with peak EWMA: the latency that an endpoint is given before its first answer, and how fast a slow one is forgiven.
const DEFAULT_RTT: Duration = Duration::from_millis(30);
const DECAY: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY_MIN: Duration = Duration::from_millis(25);
const RETRY_MAX: Duration = Duration::from_millis(250);
/// A larger request is not kept, and so not repeated.
const RETRY_BYTES: u32 = 64 * 1024;

/// The policy for calls to `port` of `service`.
pub fn policy(service: &Service, port: &ServicePort) -> outbound::OutboundPolicy {
    let to = To { service, port };
    let grpc = service
        .routes_for(port.port)
        .any(|route| route.kind == RouteKind::Grpc);
    let kind = match port.protocol {
        AppProtocol::Opaque => Kind::Opaque(to.opaque()),
        AppProtocol::Http1 => Kind::Http1(to.http1()),
        AppProtocol::Http2 | AppProtocol::Detect if grpc => Kind::Grpc(Grpc {
            routes: service
                .routes_for(port.port)
                .map(|route| to.grpc_route(route))
                .collect(),
            failure_accrual: to.accrual(),
        }),
        AppProtocol::Http2 => Kind::Http2(to.http2()),
        AppProtocol::Detect => Kind::Detect(Detect {
            timeout: Some(duration(DETECT_TIMEOUT)),
            opaque: Some(to.opaque()),
            http1: Some(to.http1()),
            http2: Some(to.http2()),
        }),
    };
    outbound::OutboundPolicy {
        protocol: Some(outbound::ProxyProtocol { kind: Some(kind) }),
        metadata: Some(resource("core", "Service", &service.key, port.port)),
    }
}

/// What the policy in force calls the protocol of a port.
pub fn protocol_name(service: &Service, port: &ServicePort) -> &'static str {
    let grpc = || {
        service
            .routes_for(port.port)
            .any(|route| route.kind == RouteKind::Grpc)
    };
    match port.protocol {
        AppProtocol::Opaque => "opaque",
        AppProtocol::Http1 => "http1",
        AppProtocol::Http2 | AppProtocol::Detect if grpc() => "grpc",
        AppProtocol::Http2 => "http2",
        AppProtocol::Detect => "detect",
    }
}

struct To<'a> {
    service: &'a Service,
    port: &'a ServicePort,
}

impl To<'_> {
    fn own(&self) -> outbound::Backend {
        backend(&self.service.key, self.port.port)
    }

    fn accrual(&self) -> Option<outbound::FailureAccrual> {
        self.service.accrual.as_ref().map(accrual)
    }

    fn opaque(&self) -> Opaque {
        use outbound::opaque_route::{Distribution, RouteBackend, Rule, distribution};
        let first = distribution::FirstAvailable {
            backends: vec![RouteBackend {
                backend: Some(self.own()),
                filters: Vec::new(),
            }],
        };
        Opaque {
            routes: vec![outbound::OpaqueRoute {
                metadata: Some(default("opaque")),
                rules: vec![Rule {
                    backends: Some(Distribution {
                        kind: Some(distribution::Kind::FirstAvailable(first)),
                    }),
                    filters: Vec::new(),
                }],
            }],
        }
    }

    fn http1(&self) -> Http1 {
        Http1 {
            routes: self.http_routes(),
            failure_accrual: self.accrual(),
        }
    }

    fn http2(&self) -> Http2 {
        Http2 {
            routes: self.http_routes(),
            failure_accrual: self.accrual(),
        }
    }

    /// The Service's HTTPRoutes, or the default that takes everything.
    fn http_routes(&self) -> Vec<outbound::HttpRoute> {
        let routes: Vec<_> = self
            .service
            .routes_for(self.port.port)
            .filter(|route| route.kind == RouteKind::Http)
            .map(|route| self.http_route(route))
            .collect();
        if !routes.is_empty() {
            return routes;
        }
        vec![outbound::HttpRoute {
            metadata: Some(default("http")),
            hosts: Vec::new(),
            rules: vec![outbound::http_route::Rule {
                matches: vec![matching::anything()],
                backends: Some(self.http_distribution(&[])),
                retry: self.service.retry.as_ref().and_then(http_retry),
                ..outbound::http_route::Rule::default()
            }],
        }]
    }

    fn http_route(&self, route: &Route) -> outbound::HttpRoute {
        let retry = route.retry.as_ref().or(self.service.retry.as_ref());
        outbound::HttpRoute {
            metadata: Some(resource(GATEWAY_API, route.kind.as_str(), &route.key, 0)),
            hosts: Vec::new(),
            rules: route
                .rules
                .iter()
                .map(|rule| outbound::http_route::Rule {
                    matches: matching::http(&rule.matches),
                    backends: Some(self.http_distribution(&rule.backends)),
                    timeouts: timeouts(&route.timeouts),
                    retry: retry.and_then(http_retry),
                    ..outbound::http_route::Rule::default()
                })
                .collect(),
        }
    }

    fn http_distribution(&self, backends: &[Backend]) -> outbound::http_route::Distribution {
        use outbound::http_route::{
            Distribution, RouteBackend, WeightedRouteBackend, distribution,
        };
        let route_backend = |backend| RouteBackend {
            backend: Some(backend),
            ..RouteBackend::default()
        };
        let kind = if backends.is_empty() {
            distribution::Kind::FirstAvailable(distribution::FirstAvailable {
                backends: vec![route_backend(self.own())],
            })
        } else {
            let weighted = backends.iter().map(|one| WeightedRouteBackend {
                backend: Some(route_backend(backend(&one.service, one.port))),
                weight: one.weight,
            });
            distribution::Kind::RandomAvailable(distribution::RandomAvailable {
                backends: weighted.collect(),
            })
        };
        Distribution { kind: Some(kind) }
    }

    fn grpc_route(&self, route: &Route) -> outbound::GrpcRoute {
        let retry = route.retry.as_ref().or(self.service.retry.as_ref());
        outbound::GrpcRoute {
            metadata: Some(resource(GATEWAY_API, route.kind.as_str(), &route.key, 0)),
            hosts: Vec::new(),
            rules: route
                .rules
                .iter()
                .map(|rule| outbound::grpc_route::Rule {
                    matches: matching::grpc(&rule.matches),
                    backends: Some(self.grpc_distribution(&rule.backends)),
                    timeouts: timeouts(&route.timeouts),
                    retry: retry.and_then(grpc_retry),
                    ..outbound::grpc_route::Rule::default()
                })
                .collect(),
        }
    }

    fn grpc_distribution(&self, backends: &[Backend]) -> outbound::grpc_route::Distribution {
        use outbound::grpc_route::{
            Distribution, RouteBackend, WeightedRouteBackend, distribution,
        };
        let route_backend = |backend| RouteBackend {
            backend: Some(backend),
            ..RouteBackend::default()
        };
        let kind = if backends.is_empty() {
            distribution::Kind::FirstAvailable(distribution::FirstAvailable {
                backends: vec![route_backend(self.own())],
            })
        } else {
            let weighted = backends.iter().map(|one| WeightedRouteBackend {
                backend: Some(route_backend(backend(&one.service, one.port))),
                weight: one.weight,
            });
            distribution::Kind::RandomAvailable(distribution::RandomAvailable {
                backends: weighted.collect(),
            })
        };
        Distribution { kind: Some(kind) }
    }
}

fn backend(service: &Key, port: u16) -> outbound::Backend {
    use outbound::backend::balance_p2c::{Load, PeakEwma};
    use outbound::backend::endpoint_discovery::{self, DestinationGet};
    use outbound::backend::{BalanceP2c, EndpointDiscovery, Kind};
    let balancer = BalanceP2c {
        discovery: Some(EndpointDiscovery {
            kind: Some(endpoint_discovery::Kind::Dst(DestinationGet {
                // A path that is not NAME:PORT makes the proxy's connection panic.
                path: authority::name(service, port),
            })),
        }),
        load: Some(Load::PeakEwma(PeakEwma {
            default_rtt: Some(duration(DEFAULT_RTT)),
            decay: Some(duration(DECAY)),
        })),
    };
    outbound::Backend {
        metadata: Some(resource("core", "Service", service, port)),
        queue: Some(outbound::Queue {
            capacity: QUEUE_CAPACITY,
            failfast_timeout: Some(duration(FAILFAST)),
        }),
        kind: Some(Kind::Balancer(balancer)),
    }
}

fn backoff(min: Duration, max: Duration, jitter: f32) -> outbound::ExponentialBackoff {
    outbound::ExponentialBackoff {
        min_backoff: Some(duration(min)),
        max_backoff: Some(duration(max)),
        jitter_ratio: jitter,
        respect_retry_after_hint: false,
    }
}

fn accrual(accrual: &Accrual) -> outbound::FailureAccrual {
    use outbound::failure_accrual::{ConsecutiveFailures, Kind};
    outbound::FailureAccrual {
        kind: Some(Kind::ConsecutiveFailures(ConsecutiveFailures {
            max_failures: accrual.max_failures,
            backoff: Some(backoff(
                accrual.min_penalty,
                accrual.max_penalty,
                accrual.jitter,
            )),
        })),
        ejection: None,
    }
}

fn timeouts(timeouts: &Timeouts) -> Option<http_route::Timeouts> {
    (*timeouts != Timeouts::default()).then(|| http_route::Timeouts {
        response: timeouts.response.map(duration),
        request: timeouts.request.map(duration),
        idle: timeouts.idle.map(duration),
    })
}

fn grpc_retry(retry: &Retry) -> Option<outbound::grpc_route::Retry> {
    use outbound::grpc_route::retry::Conditions;
    let conditions = retry.grpc;
    if conditions == crate::policy::GrpcConditions::default() {
        return None;
    }
    Some(outbound::grpc_route::Retry {
        max_retries: u32::from(retry.limit),
        max_request_bytes: RETRY_BYTES,
        conditions: Some(Conditions {
            cancelled: conditions.cancelled,
            deadine_exceeded: conditions.deadline_exceeded,
            internal: conditions.internal,
            resource_exhausted: conditions.resource_exhausted,
            unavailable: conditions.unavailable,
        }),
        timeout: retry.timeout.map(duration),
        backoff: Some(backoff(RETRY_MIN, RETRY_MAX, 1.0)),
    })
}

fn http_retry(retry: &Retry) -> Option<outbound::http_route::Retry> {
    use outbound::http_route::retry::{Conditions, conditions::StatusRange};
    if retry.http.is_empty() {
        return None;
    }
    let ranges = retry.http.iter().map(|(start, end)| StatusRange {
        start: u32::from(*start),
        end: u32::from(*end),
    });
    Some(outbound::http_route::Retry {
        max_retries: u32::from(retry.limit),
        max_request_bytes: RETRY_BYTES,
        conditions: Some(Conditions {
            status_ranges: ranges.collect(),
        }),
        timeout: retry.timeout.map(duration),
        backoff: Some(backoff(RETRY_MIN, RETRY_MAX, 1.0)),
    })
}
