//! What the control plane says of a destination, checked and put into the sidecar's own words.

use std::sync::Arc;
use std::time::Duration;

use linkerd2_proxy_api::destination::WeightedAddr;
use linkerd2_proxy_api::outbound as proto;

use super::{
    Accrual, Backend, Backoff, ClientPolicy, Conditions, Distribution, Retry, Route, Rule,
    SuccessRate, Target, Timeouts,
};
use crate::control::endpoints::EndpointSpec;
use crate::policy::convert::{self, Invalid};
use crate::policy::filter::{self, Filter, HeaderChange, Redirect};
use crate::policy::matching;
use crate::policy::meta::Meta;

impl ClientPolicy {
    /// What the control plane says.
    pub(crate) fn from_proto(policy: proto::OutboundPolicy) -> Result<Self, Invalid> {
        use proto::proxy_protocol::Kind;
        let meta = Meta::from_proto(policy.metadata)?;
        let kind = policy
            .protocol
            .and_then(|protocol| protocol.kind)
            .ok_or(Invalid::missing("protocol"))?;
        let (http1, http2, failures) = match kind {
            Kind::Grpc(grpc) => (None, Some(grpc_routes(grpc.routes)?), grpc.failure_accrual),
            Kind::Http1(http) => (Some(http_routes(http.routes)?), None, http.failure_accrual),
            Kind::Http2(http) => {
                let routes = http_routes(http.routes)?;
                (
                    Some(Arc::clone(&routes)),
                    Some(routes),
                    http.failure_accrual,
                )
            }
            Kind::Detect(detect) => {
                let http1 = detect.http1.ok_or(Invalid::missing("http1 of detect"))?;
                let http2 = detect.http2.ok_or(Invalid::missing("http2 of detect"))?;
                let failures = http2.failure_accrual.or(http1.failure_accrual);
                (
                    Some(http_routes(http1.routes)?),
                    Some(http_routes(http2.routes)?),
                    failures,
                )
            }
            Kind::Opaque(_) | Kind::Tls(_) => {
                return Err(Invalid::Unsupported("an opaque or TLS destination"));
            }
        };
        Ok(Self {
            meta,
            http1,
            http2,
            accrual: failures.map(accrual).transpose()?.flatten(),
        })
    }
}

fn accrual(failures: proto::FailureAccrual) -> Result<Option<Accrual>, Invalid> {
    use proto::failure_accrual::Kind;
    let missing = Invalid::missing("backoff of failure accrual");
    Ok(match failures.kind {
        None => None,
        Some(Kind::ConsecutiveFailures(consecutive)) => Some(Accrual {
            max_failures: consecutive.max_failures.max(1),
            success_rate: None,
            backoff: backoff(consecutive.backoff.ok_or(missing)?)?,
        }),
        Some(Kind::Unified(unified)) => {
            if !(0.0..=1.0).contains(&unified.success_rate_threshold) {
                return Err(Invalid::value(
                    "success rate threshold",
                    unified.success_rate_threshold,
                ));
            }
            let window =
                convert::optional("window", unified.decay)?.unwrap_or(Duration::from_secs(10));
            Some(Accrual {
                max_failures: match unified.max_consecutive_failures {
                    0 => u32::MAX,
                    max => max,
                },
                success_rate: Some(SuccessRate {
                    threshold: unified.success_rate_threshold,
                    window: window.max(Duration::from_millis(10)),
                    min_requests: unified.min_requests.min(1_000_000),
                }),
                backoff: backoff(unified.backoff.ok_or(missing)?)?,
            })
        }
    })
}

fn backoff(backoff: proto::ExponentialBackoff) -> Result<Backoff, Invalid> {
    let min = convert::optional("min backoff", backoff.min_backoff)?
        .ok_or(Invalid::missing("min backoff"))?;
    let max = convert::optional("max backoff", backoff.max_backoff)?
        .ok_or(Invalid::missing("max backoff"))?;
    if min.is_zero() || min > max {
        return Err(Invalid::value(
            "backoff",
            "must be more than 0, and the minimum at most the maximum",
        ));
    }
    Ok(Backoff {
        min,
        max,
        jitter: f64::from(backoff.jitter_ratio),
    })
}

fn timeouts(
    timeouts: Option<linkerd2_proxy_api::http_route::Timeouts>,
) -> Result<Timeouts, Invalid> {
    let timeouts = timeouts.unwrap_or_default();
    Ok(Timeouts {
        request: convert::optional("request timeout", timeouts.request)?
            .filter(|time| !time.is_zero()),
        response: convert::optional("response timeout", timeouts.response)?
            .filter(|time| !time.is_zero()),
        idle: convert::optional("idle timeout", timeouts.idle)?.filter(|time| !time.is_zero()),
    })
}

fn grpc_routes(routes: Vec<proto::GrpcRoute>) -> Result<Arc<[Route]>, Invalid> {
    routes
        .into_iter()
        .map(|route| {
            Ok(Route {
                meta: Meta::from_proto(route.metadata)?,
                grpc: true,
                hosts: matching::hosts(route.hosts)?,
                rules: route
                    .rules
                    .into_iter()
                    .map(grpc_rule)
                    .collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn grpc_rule(rule: proto::grpc_route::Rule) -> Result<Rule, Invalid> {
    use proto::grpc_route::distribution::Kind;
    let backends = rule
        .backends
        .and_then(|backends| backends.kind)
        .ok_or(Invalid::missing("backends"))?;
    let one = |backend: proto::grpc_route::RouteBackend| {
        backend_of(backend.backend, grpc_filters(backend.filters)?)
    };
    let distribution = match backends {
        Kind::Empty(_) => Distribution::Empty,
        Kind::FirstAvailable(first) => first_of(first.backends.into_iter().map(one))?,
        Kind::RandomAvailable(random) => random_of(random.backends.into_iter().map(|each| {
            (
                each.weight,
                each.backend
                    .ok_or(Invalid::missing("backend"))
                    .and_then(one),
            )
        }))?,
    };
    let retry = match rule.retry {
        None => None,
        Some(retry) => {
            let conditions = retry
                .conditions
                .ok_or(Invalid::missing("conditions of retry"))?;
            let grpc = [
                (conditions.cancelled, 1),
                (conditions.deadine_exceeded, 4),
                (conditions.resource_exhausted, 8),
                (conditions.internal, 13),
                (conditions.unavailable, 14),
            ];
            let grpc = grpc
                .iter()
                .filter(|(is_set, _)| *is_set)
                .fold(0, |bits, (_, code)| bits | 1 << code);
            Some(Retry {
                max_retries: retry.max_retries as usize,
                max_request_bytes: retry.max_request_bytes as usize,
                conditions: Conditions {
                    grpc,
                    http: Vec::new(),
                },
                timeout: convert::optional("timeout of retry", retry.timeout)?,
                backoff: retry.backoff.map(backoff).transpose()?,
            })
        }
    };
    Ok(Rule {
        matches: matching::grpc(rule.matches)?,
        filters: grpc_filters(rule.filters)?,
        distribution,
        timeouts: timeouts(rule.timeouts)?,
        retry,
        allow_headers: rule.allow_l5d_request_headers,
    })
}

fn http_routes(routes: Vec<proto::HttpRoute>) -> Result<Arc<[Route]>, Invalid> {
    routes
        .into_iter()
        .map(|route| {
            Ok(Route {
                meta: Meta::from_proto(route.metadata)?,
                grpc: false,
                hosts: matching::hosts(route.hosts)?,
                rules: route
                    .rules
                    .into_iter()
                    .map(http_rule)
                    .collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn http_rule(rule: proto::http_route::Rule) -> Result<Rule, Invalid> {
    use proto::http_route::distribution::Kind;
    let backends = rule
        .backends
        .and_then(|backends| backends.kind)
        .ok_or(Invalid::missing("backends"))?;
    let one = |backend: proto::http_route::RouteBackend| {
        backend_of(backend.backend, http_filters(backend.filters)?)
    };
    let distribution = match backends {
        Kind::Empty(_) => Distribution::Empty,
        Kind::FirstAvailable(first) => first_of(first.backends.into_iter().map(one))?,
        Kind::RandomAvailable(random) => random_of(random.backends.into_iter().map(|each| {
            (
                each.weight,
                each.backend
                    .ok_or(Invalid::missing("backend"))
                    .and_then(one),
            )
        }))?,
    };
    let retry = match rule.retry {
        None => None,
        Some(retry) => {
            let conditions = retry
                .conditions
                .ok_or(Invalid::missing("conditions of retry"))?;
            let range = |status: u32| u16::try_from(status).unwrap_or(u16::MAX);
            let http = conditions
                .status_ranges
                .iter()
                .map(|each| (range(each.start), range(each.end)))
                .collect();
            Some(Retry {
                max_retries: retry.max_retries as usize,
                max_request_bytes: retry.max_request_bytes as usize,
                conditions: Conditions { grpc: 0, http },
                timeout: convert::optional("timeout of retry", retry.timeout)?,
                backoff: retry.backoff.map(backoff).transpose()?,
            })
        }
    };
    Ok(Rule {
        matches: matching::http(rule.matches)?,
        filters: http_filters(rule.filters)?,
        distribution,
        timeouts: timeouts(rule.timeouts)?,
        retry,
        allow_headers: rule.allow_l5d_request_headers,
    })
}

fn first_of(
    mut backends: impl Iterator<Item = Result<Backend, Invalid>>,
) -> Result<Distribution, Invalid> {
    let first = backends.next().ok_or(Invalid::missing("backends"))??;
    Ok(Distribution::First(Arc::new(first)))
}

fn random_of(
    backends: impl Iterator<Item = (u32, Result<Backend, Invalid>)>,
) -> Result<Distribution, Invalid> {
    let backends: Vec<_> = backends
        .map(|(weight, backend)| Ok((Arc::new(backend?), weight)))
        .collect::<Result<_, Invalid>>()?;
    if backends.iter().all(|(_, weight)| *weight == 0) {
        return Err(Invalid::value(
            "backends",
            "no backend with a weight above 0",
        ));
    }
    Ok(Distribution::Random(backends))
}

fn backend_of(backend: Option<proto::Backend>, filters: Vec<Filter>) -> Result<Backend, Invalid> {
    use proto::backend::{Kind, balance_p2c::Load, endpoint_discovery};
    let backend = backend.ok_or(Invalid::missing("backend"))?;
    let queue = backend.queue.ok_or(Invalid::missing("queue of backend"))?;
    let target = match backend.kind {
        None => Target::Fail,
        Some(Kind::Forward(forward)) => forward_to(forward)?,
        Some(Kind::Balancer(balancer)) => {
            let discovery = balancer.discovery.and_then(|discovery| discovery.kind);
            let endpoint_discovery::Kind::Dst(dst) =
                discovery.ok_or(Invalid::missing("discovery of balancer"))?;
            let load = balancer.load.ok_or(Invalid::missing("load of balancer"))?;
            let (default_rtt, decay) = match load {
                Load::PeakEwma(ewma) => (ewma.default_rtt, ewma.decay),
                Load::PenaltyPeakEwma(ewma) => (ewma.default_rtt, ewma.decay),
            };
            Target::Balancer {
                path: dst.path.into(),
                default_rtt: convert::optional("default RTT", default_rtt)?
                    .unwrap_or(Duration::from_millis(30)),
                decay: convert::optional("decay", decay)?.unwrap_or(Duration::from_secs(10)),
            }
        }
    };
    Ok(Backend {
        meta: Meta::from_proto(backend.metadata)?,
        filters,
        target,
        queue: queue.capacity.max(1) as usize,
        // No time at all would fail every request.
        failfast: convert::optional("fail-fast timeout", queue.failfast_timeout)?
            .filter(|time| !time.is_zero())
            .unwrap_or(Duration::from_secs(3)),
    })
}

fn forward_to(forward: WeightedAddr) -> Result<Target, Invalid> {
    let (address, spec) = EndpointSpec::from_proto(forward, &std::collections::HashMap::new())?;
    Ok(Target::Forward(address, Arc::new(spec)))
}

fn grpc_filters(filters: Vec<proto::grpc_route::Filter>) -> Result<Vec<Filter>, Invalid> {
    use proto::grpc_route::filter::Kind;
    filters
        .into_iter()
        .map(
            |filter| match filter.kind.ok_or(Invalid::missing("filter"))? {
                Kind::FailureInjector(injector) => filter::inject_grpc(injector),
                Kind::RequestHeaderModifier(change) => {
                    HeaderChange::new(change.add, change.set, change.remove)
                        .map(Filter::RequestHeaders)
                }
            },
        )
        .collect()
}

fn http_filters(filters: Vec<proto::http_route::Filter>) -> Result<Vec<Filter>, Invalid> {
    use proto::http_route::filter::Kind;
    filters
        .into_iter()
        .map(
            |filter| match filter.kind.ok_or(Invalid::missing("filter"))? {
                Kind::FailureInjector(injector) => filter::inject_http(injector),
                Kind::RequestHeaderModifier(change) => {
                    HeaderChange::new(change.add, change.set, change.remove)
                        .map(Filter::RequestHeaders)
                }
                Kind::ResponseHeaderModifier(change) => {
                    HeaderChange::new(change.add, change.set, change.remove)
                        .map(Filter::ResponseHeaders)
                }
                Kind::Redirect(redirect) => Redirect::new(redirect).map(Filter::Redirect),
            },
        )
        .collect()
}
