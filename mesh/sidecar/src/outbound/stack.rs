//! The stack of one rule: built once for each policy and shared by all requests.

use std::sync::Arc;

use tower::ServiceBuilder;

use super::Shared;
use super::distribute::{Distribute, RouteBackend};
use super::filters::{FiltersLayer, WithFilters};
use super::measure::{MeasureLayer, Measured};
use super::overrides::{OverridesLayer, TakeOverrides};
use super::profile::Balancers;
use super::retry::{RetryLayer, RetryMetrics, WithRetry};
use super::timeouts::{TimeoutsLayer, WithTimeouts};
use crate::metrics::responses::{RouteFamilies, RouteMetrics, Style};
use crate::metrics::{FEW_SECONDS, Labels, MANY_SECONDS};
use crate::policy::meta::Meta;
use crate::policy::outbound::{Backend, Distribution, Route, Rule};

/// The stack of one rule.
pub(crate) type RuleStack =
    TakeOverrides<Measured<WithFilters<WithTimeouts<WithRetry<Distribute>>>>>;

/// Builds the stack of a rule; the first layer sees a request first.
pub(crate) fn of_rule(
    shared: &Shared,
    parent: &Meta,
    route: &Route,
    rule: &Rule,
    balancers: &mut Balancers<'_>,
) -> RuleStack {
    let labels = parent
        .labels_with_port("parent")
        .and(&route.meta.labels("route"));
    // Linkerd's proxy can be told to fill it, and leaves it empty else: any caller could make it grow.
    let of_route = labels.clone().with("hostname", "");
    let measured = Arc::new(RouteMetrics::new(
        &shared.registry,
        route_families(route.grpc),
        &of_route,
    ));
    let retries = Arc::new(RetryMetrics::new(&shared.registry, route.grpc, &of_route));
    ServiceBuilder::new()
        // First, so that the request's own timeouts and retries are known below, and go no further than here.
        .layer(OverridesLayer {
            allowed: rule.allow_headers,
        })
        // Outside timeouts and retries: it counts what the app sees.
        .layer(MeasureLayer(measured))
        // Before the clocks start: an injected failure or a redirect needs none.
        .layer(FiltersLayer(rule.filters.clone()))
        // Outside retries: the time is for all tries together.
        .layer(TimeoutsLayer(rule.timeouts))
        // Outside the choice of a backend: each try may go elsewhere, and each counts for the breakers.
        .layer(RetryLayer {
            policy: rule.retry.clone(),
            metrics: retries,
        })
        // Backends, their balancers, endpoints and breakers.
        .service(distribute(
            shared,
            &labels,
            route.grpc,
            &rule.distribution,
            balancers,
        ))
}

fn distribute(
    shared: &Shared,
    labels: &Labels,
    grpc: bool,
    distribution: &Distribution,
    balancers: &mut Balancers<'_>,
) -> Distribute {
    let mut one = |backend: &Arc<Backend>, weight| {
        let labels = labels
            .clone()
            .and(&backend.meta.labels_with_port("backend"));
        RouteBackend {
            weight,
            filters: backend.filters.clone(),
            balancer: balancers.get(backend),
            metrics: Arc::new(RouteMetrics::new(
                &shared.registry,
                backend_families(grpc),
                &labels,
            )),
        }
    };
    Distribute::new(match distribution {
        Distribution::Empty => Vec::new(),
        Distribution::First(backend) => vec![one(backend, 1)],
        Distribution::Random(backends) => backends
            .iter()
            .map(|(backend, weight)| one(backend, *weight))
            .collect(),
    })
}

fn route_families(grpc: bool) -> RouteFamilies {
    let bounds = FEW_SECONDS;
    if grpc {
        RouteFamilies {
            requests: None,
            statuses: "outbound_grpc_route_request_statuses_total",
            duration: "outbound_grpc_route_request_duration_seconds",
            bounds,
            frames: "outbound_grpc_route_request_frame_size_bytes",
            style: Style::Grpc,
        }
    } else {
        RouteFamilies {
            requests: None,
            statuses: "outbound_http_route_request_statuses_total",
            duration: "outbound_http_route_request_duration_seconds",
            bounds,
            frames: "outbound_http_route_request_frame_size_bytes",
            style: Style::Http,
        }
    }
}

fn backend_families(grpc: bool) -> RouteFamilies {
    let bounds = MANY_SECONDS;
    if grpc {
        RouteFamilies {
            requests: Some("outbound_grpc_route_backend_requests_total"),
            statuses: "outbound_grpc_route_backend_response_statuses_total",
            duration: "outbound_grpc_route_backend_response_duration_seconds",
            bounds,
            frames: "outbound_grpc_route_backend_response_frame_size_bytes",
            style: Style::Grpc,
        }
    } else {
        RouteFamilies {
            requests: Some("outbound_http_route_backend_requests_total"),
            statuses: "outbound_http_route_backend_response_statuses_total",
            duration: "outbound_http_route_backend_response_duration_seconds",
            bounds,
            frames: "outbound_http_route_backend_response_frame_size_bytes",
            style: Style::Http,
        }
    }
}
