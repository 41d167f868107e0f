//! The policy of one destination: its routes with their timeouts, retries and backends, and its failure accrual.

mod from_proto;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::filter::Filter;
use super::matching::{HostMatch, Matchable, RequestMatch};
use super::meta::Meta;
use crate::control::endpoints::EndpointSpec;

/// The policy of one destination.
#[derive(Debug)]
pub(crate) struct ClientPolicy {
    /// The Service.
    pub(crate) meta: Meta,
    /// For HTTP/1 requests; absent where the destination speaks gRPC alone.
    pub(crate) http1: Option<Arc<[Route]>>,
    /// For HTTP/2 requests.
    pub(crate) http2: Option<Arc<[Route]>>,
    /// When an endpoint is taken out.
    pub(crate) accrual: Option<Accrual>,
}

/// A route of a destination.
#[derive(Debug)]
pub(crate) struct Route {
    /// The route's resource.
    pub(crate) meta: Meta,
    /// It is a gRPC route.
    pub(crate) grpc: bool,
    hosts: Vec<HostMatch>,
    /// Its rules.
    pub(crate) rules: Vec<Rule>,
}

/// A rule of a route.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    matches: Vec<RequestMatch>,
    /// What it does to a request.
    pub(crate) filters: Vec<Filter>,
    /// Where requests go.
    pub(crate) distribution: Distribution,
    /// How long they may take.
    pub(crate) timeouts: Timeouts,
    /// When they are sent again.
    pub(crate) retry: Option<Retry>,
    /// A request may say its own timeouts and retries in `l5d-*` headers.
    pub(crate) allow_headers: bool,
}

/// How long a request may take; `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// From its first byte to the response's last, all tries together.
    pub(crate) request: Option<Duration>,
    /// From its last byte to the response's last.
    pub(crate) response: Option<Duration>,
    /// Without a frame in either direction.
    pub(crate) idle: Option<Duration>,
}

/// When and how often a request is sent again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Retry {
    /// Tries after the first.
    pub(crate) max_retries: usize,
    /// A larger body is not sent again.
    pub(crate) max_request_bytes: usize,
    /// What is tried again.
    pub(crate) conditions: Conditions,
    /// How long one try may take until its response's headers.
    pub(crate) timeout: Option<Duration>,
    /// The pause before each retry.
    pub(crate) backoff: Option<Backoff>,
}

/// Which responses are tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// gRPC statuses, a bit each.
    pub(crate) grpc: u32,
    /// HTTP statuses, from and to inclusive.
    pub(crate) http: Vec<(u16, u16)>,
}

/// Pauses that double, with jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Backoff {
    /// The first.
    pub(crate) min: Duration,
    /// The longest.
    pub(crate) max: Duration,
    /// Up to this share of the pause is added.
    pub(crate) jitter: f64,
}

impl Backoff {
    /// The pause before attempt `n` (from 0); `random` is between 0 and 1.
    pub(crate) fn delay(&self, n: u32, random: f64) -> Duration {
        let base = self
            .min
            .saturating_mul(1_u32.checked_shl(n.min(31)).unwrap_or(u32::MAX))
            .min(self.max);
        base + base.mul_f64(self.jitter.clamp(0.0, 100.0) * random)
    }
}

/// When an endpoint is taken out of the balancer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Accrual {
    /// After so many failures in a row.
    pub(crate) max_failures: u32,
    /// Or once the share of successes falls below this.
    pub(crate) success_rate: Option<SuccessRate>,
    /// How long until it is tried again.
    pub(crate) backoff: Backoff,
}

/// The success rate below which an endpoint is taken out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SuccessRate {
    /// From 0 to 1.
    pub(crate) threshold: f64,
    /// How far back it looks.
    pub(crate) window: Duration,
    /// Fewer requests than this say nothing.
    pub(crate) min_requests: u32,
}

/// Where a rule's requests go.
#[derive(Clone, Debug)]
pub(crate) enum Distribution {
    /// Nowhere.
    Empty,
    /// To the first backend.
    First(Arc<Backend>),
    /// To one of these, by weight.
    Random(Vec<(Arc<Backend>, u32)>),
}

/// A backend of a rule.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The backend's resource.
    pub(crate) meta: Meta,
    /// What is done to requests for it.
    pub(crate) filters: Vec<Filter>,
    /// Its endpoints.
    pub(crate) target: Target,
    /// Requests that may wait for an endpoint.
    pub(crate) queue: usize,
    /// How long they wait.
    pub(crate) failfast: Duration,
}

/// Where a backend's endpoints come from.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// The Destination API, and the balancer's settings.
    Balancer {
        /// What to ask for: `name.ns.svc.cluster.local:port`.
        path: Arc<str>,
        /// What an endpoint without requests is taken to need.
        default_rtt: Duration,
        /// How fast old measurements are forgotten.
        decay: Duration,
    },
    /// This one endpoint.
    Forward(SocketAddr, Arc<EndpointSpec>),
    /// No kind: every request fails.
    Fail,
}

impl Matchable for Route {
    fn hosts(&self) -> &[HostMatch] {
        &self.hosts
    }

    fn rules(&self) -> impl Iterator<Item = &[RequestMatch]> {
        self.rules.iter().map(|rule| rule.matches.as_slice())
    }
}
