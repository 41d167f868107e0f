//! Requests and responses of one endpoint or one server, as Linkerd counts them.

use std::sync::OnceLock;

use tokio::time::Instant;
use tonic::Code;

use super::{Counter, Histogram, LATENCY_MS, Labels, Registry};
use crate::http::observe::{End, Observe};

/// `request_total`, `response_total`, `response_latency_ms` with one set of labels.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    /// Requests.
    pub(crate) requests: Counter,
    responses: Statuses,
    latency: OnceLock<Histogram>,
    registry: Registry,
    labels: Labels,
}

impl HttpMetrics {
    /// With these labels.
    pub(crate) fn new(registry: &Registry, labels: &Labels) -> Self {
        Self {
            requests: registry.counter("request_total", "Requests.", labels),
            responses: Statuses::new(
                registry,
                "response_total",
                "Responses.",
                labels,
                Style::Classified,
            ),
            latency: OnceLock::new(),
            registry: registry.clone(),
            labels: labels.clone(),
        }
    }

    /// Counts a response.
    pub(crate) fn response(&self, end: &End, since: Instant, now: Instant) {
        self.responses.count(end);
        let latency = self.latency.get_or_init(|| {
            let labels = self.labels.clone().with("status_code", end.status.as_u16());
            self.registry.histogram(
                "response_latency_ms",
                "Time to the end of the response.",
                LATENCY_MS,
                &labels,
            )
        });
        latency.record(now.duration_since(since).as_secs_f64() * 1e3);
    }
}

/// How the status labels of a family look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `classification`, `status_code`, `grpc_status` in numbers: the older families.
    Classified,
    /// `grpc_status` in words, `error`: the families of gRPC routes.
    Grpc,
    /// `http_status`, `error`: the families of HTTP routes.
    Http,
}

/// A counter for each status; those of a successful exchange are found without a lookup.
#[derive(Debug)]
pub(crate) struct Statuses {
    registry: Registry,
    name: &'static str,
    help: &'static str,
    labels: Labels,
    style: Style,
    by_grpc: [OnceLock<Counter>; 17],
    plain: OnceLock<Counter>,
}

impl Statuses {
    /// The family `name` with these labels and the status.
    pub(crate) fn new(
        registry: &Registry,
        name: &'static str,
        help: &'static str,
        labels: &Labels,
        style: Style,
    ) -> Self {
        Self {
            registry: registry.clone(),
            name,
            help,
            labels: labels.clone(),
            style,
            by_grpc: [const { OnceLock::new() }; 17],
            plain: OnceLock::new(),
        }
    }

    /// Counts a response.
    pub(crate) fn count(&self, end: &End) {
        let usual = end.error.is_none() && !end.cancelled && end.status == http::StatusCode::OK;
        match end.grpc_status {
            Some(code) if usual => match self.by_grpc.get(usize::from(code)) {
                Some(counter) => counter.get_or_init(|| self.find(end)).increment(),
                None => self.find(end).increment(),
            },
            None if usual => self.plain.get_or_init(|| self.find(end)).increment(),
            _ => self.find(end).increment(),
        }
    }

    fn find(&self, end: &End) -> Counter {
        let error = match &end.error {
            Some(error) => error.label(),
            None if end.cancelled => "cancelled",
            None => "",
        };
        let labels = self.labels.clone();
        let labels = match self.style {
            Style::Classified => {
                let failed = end.error.is_some()
                    || end.cancelled
                    || end.status.is_server_error()
                    || end.grpc_status.is_some_and(|code| code != 0);
                let labels = labels
                    .with("classification", if failed { "failure" } else { "success" })
                    .with("status_code", end.status.as_u16());
                let labels = match end.grpc_status {
                    Some(code) => labels.with("grpc_status", code),
                    None => labels,
                };
                if error.is_empty() {
                    labels
                } else {
                    labels.with("error", error)
                }
            }
            Style::Grpc => {
                let status = end
                    .grpc_status
                    .map(|code| name(Code::from_i32(code.into())))
                    .unwrap_or_default();
                labels.with("grpc_status", status).with("error", error)
            }
            Style::Http => labels
                .with("http_status", end.status.as_u16())
                .with("error", error),
        };
        self.registry.counter(self.name, self.help, &labels)
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Requests, statuses and durations of a route or one of its backends.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    requests: Option<Counter>,
    statuses: Statuses,
    duration: Histogram,
}

/// The names of one set of families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouteFamilies {
    /// Requests, where the families have such.
    pub(crate) requests: Option<&'static str>,
    /// Responses by status.
    pub(crate) statuses: &'static str,
    /// How long they took.
    pub(crate) duration: &'static str,
    /// The bounds of that.
    pub(crate) bounds: &'static [f64],
    /// The status labels.
    pub(crate) style: Style,
}

impl RouteMetrics {
    /// With these labels.
    pub(crate) fn new(registry: &Registry, families: RouteFamilies, labels: &Labels) -> Self {
        Self {
            requests: families
                .requests
                .map(|name| registry.counter(name, "Requests.", labels)),
            statuses: Statuses::new(
                registry,
                families.statuses,
                "Responses by status.",
                labels,
                families.style,
            ),
            duration: registry.histogram(
                families.duration,
                "Time to the end of the response.",
                families.bounds,
                labels,
            ),
        }
    }

    /// Counts a request.
    pub(crate) fn request(&self) {
        if let Some(requests) = &self.requests {
            requests.increment();
        }
    }

    /// Counts its end.
    pub(crate) fn response(&self, end: &End, since: Instant, now: Instant) {
        self.statuses.count(end);
        self.duration
            .record(now.duration_since(since).as_secs_f64());
    }
}

/// Counts the end of a response in some metrics.
#[derive(Debug)]
pub(crate) struct RouteObserver {
    metrics: std::sync::Arc<RouteMetrics>,
    since: Instant,
}

impl RouteObserver {
    /// Of a request that began at `since`.
    pub(crate) fn new(metrics: std::sync::Arc<RouteMetrics>, since: Instant) -> Self {
        Self { metrics, since }
    }
}

impl Observe for RouteObserver {
    fn end(&mut self, end: &End, now: Instant) {
        self.metrics.response(end, self.since, now);
    }
}
