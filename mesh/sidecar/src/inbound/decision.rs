//! What was decided for a peer on one route, and what is counted of its requests there: handles that are found once.

use std::sync::Arc;

use tokio::time::Instant;

use super::peer_labels::Refusals;
use crate::http::Request;
use crate::http::observe::{End, Observe};
use crate::metrics::responses::{HttpMetrics, Statuses, Style};
use crate::metrics::{
    Counter, FEW_SECONDS, FRAME_BYTES, Histogram, Labels, MANY_SECONDS, Registry,
};
use crate::policy::inbound::Route;
use crate::policy::meta::Meta;

/// What was decided for a peer on one route.
#[derive(Debug)]
pub(super) struct Decision {
    /// The peer may call it.
    pub(super) admitted: bool,
    /// `inbound_http_authz_allow_total` or `_deny_total`.
    pub(super) decided: Counter,
    /// Where it is counted that a rate limit refuses one all the same.
    pub(super) refusals: Arc<Refusals>,
    counted: Option<Counted>,
}

/// What is counted of requests that were let in.
#[derive(Debug)]
struct Counted {
    http: HttpMetrics,
    requests: Counter,
    statuses: Statuses,
    request_seconds: Histogram,
    response_seconds: Histogram,
    request_frames: Histogram,
    response_frames: Histogram,
}

/// The names of the families of HTTP or gRPC.
struct Families {
    requests: &'static str,
    statuses: &'static str,
    style: Style,
    request_seconds: &'static str,
    response_seconds: &'static str,
    request_frames: &'static str,
    response_frames: &'static str,
}

const GRPC: Families = Families {
    requests: "inbound_grpc_requests_total",
    statuses: "inbound_grpc_statuses_total",
    style: Style::InboundGrpc,
    request_seconds: "inbound_grpc_request_duration_seconds",
    response_seconds: "inbound_grpc_response_duration_seconds",
    request_frames: "inbound_grpc_request_frame_size_bytes",
    response_frames: "inbound_grpc_response_frame_size_bytes",
};

const HTTP: Families = Families {
    requests: "inbound_http_requests_total",
    statuses: "inbound_http_statuses_total",
    style: Style::InboundHttp,
    request_seconds: "inbound_http_request_duration_seconds",
    response_seconds: "inbound_http_response_duration_seconds",
    request_frames: "inbound_http_request_frame_size_bytes",
    response_frames: "inbound_http_response_frame_size_bytes",
};

impl Decision {
    /// The peer was let in by `authz`, or by none.
    pub(super) fn new(
        registry: &Registry,
        refusals: &Arc<Refusals>,
        route: &Route,
        authz: Option<&Meta>,
    ) -> Self {
        let peer = refusals.peer();
        let on_route = peer.server.clone().and(&route.meta.inbound_labels("route"));
        let Some(authz) = authz else {
            let labels = peer.around(&on_route);
            return Self {
                admitted: false,
                decided: registry.counter(
                    "inbound_http_authz_deny_total",
                    "Requests that were denied.",
                    &labels,
                ),
                refusals: Arc::clone(refusals),
                counted: None,
            };
        };
        let labels = peer.around(&on_route.and(&authz.inbound_labels("authz")));
        let decided = registry.counter(
            "inbound_http_authz_allow_total",
            "Requests that were authorized.",
            &labels,
        );
        let http = Labels::new().with("direction", "inbound").and(&labels);
        let families = if route.grpc { GRPC } else { HTTP };
        let of_route = peer.parent.clone().and(&route.meta.inbound_labels("route"));
        Self {
            admitted: true,
            decided,
            refusals: Arc::clone(refusals),
            counted: Some(Counted::new(
                registry,
                &families,
                HttpMetrics::new(registry, &http),
                &of_route,
            )),
        }
    }

    /// Counts a request that was let in.
    pub(super) fn begin(&self, request: &mut Request) {
        if let Some(counted) = &self.counted {
            counted.http.requests.increment();
            counted.requests.increment();
            request.body_mut().count_frames(&counted.request_frames);
        }
    }

    /// Follows the response to a request that came at `since`.
    pub(super) fn follow(self: Arc<Self>, since: Instant) -> Box<dyn Observe> {
        Box::new(Following {
            decision: self,
            since,
        })
    }

    /// Counts the end of a response.
    pub(super) fn ended(&self, end: &End, since: Instant, now: Instant) {
        if let Some(counted) = &self.counted {
            counted.http.response(end, since, now);
            counted.statuses.count(end);
            let seconds = now.duration_since(since).as_secs_f64();
            counted.request_seconds.record(seconds);
            counted.response_seconds.record(seconds);
        }
    }
}

impl Counted {
    fn new(registry: &Registry, families: &Families, http: HttpMetrics, labels: &Labels) -> Self {
        let seconds = |name, bounds| {
            registry.histogram(name, "Time to the end of the response.", bounds, labels)
        };
        let frames =
            |name| registry.histogram(name, "Sizes of frames of data.", FRAME_BYTES, labels);
        Self {
            http,
            requests: registry.counter(families.requests, "Requests.", labels),
            statuses: Statuses::new(
                registry,
                families.statuses,
                "Responses by status.",
                labels,
                families.style,
            ),
            request_seconds: seconds(families.request_seconds, MANY_SECONDS),
            response_seconds: seconds(families.response_seconds, FEW_SECONDS),
            request_frames: frames(families.request_frames),
            response_frames: frames(families.response_frames),
        }
    }
}

struct Following {
    decision: Arc<Decision>,
    since: Instant,
}

impl Observe for Following {
    fn data(&mut self, len: usize) {
        if let Some(counted) = &self.decision.counted {
            counted.response_frames.record(len as f64);
        }
    }

    fn end(&mut self, end: &End, now: Instant) {
        self.decision.ended(end, self.since, now);
    }
}
