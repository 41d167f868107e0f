//! Requests and responses of one endpoint or one server, as Linkerd counts them.

use std::sync::OnceLock;

use tokio::time::Instant;
use tonic::Code;

use super::{Counter, FRAME_BYTES, Histogram, LATENCY_MS, Labels, Registry};
use crate::http::observe::{End, Observe};

/// `request_total`, `response_total`, `response_latency_ms` with one set of labels.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    /// Requests.
    pub(crate) requests: Counter,
    responses: Statuses,
    latency_name: &'static str,
    /// Of responses with status 200.
    latency: OnceLock<Histogram>,
    registry: Registry,
    labels: Labels,
}

impl HttpMetrics {
    /// With these labels.
    pub(crate) fn new(registry: &Registry, labels: &Labels) -> Self {
        let names = ["request_total", "response_total", "response_latency_ms"];
        Self::named(registry, names, labels)
    }

    /// Of requests to the control plane.
    pub(crate) fn of_control(registry: &Registry, labels: &Labels) -> Self {
        let names = [
            "control_request_total",
            "control_response_total",
            "control_response_latency_ms",
        ];
        Self::named(registry, names, labels)
    }

    fn named(
        registry: &Registry,
        [requests, responses, latency_name]: [&'static str; 3],
        labels: &Labels,
    ) -> Self {
        Self {
            requests: registry.counter(requests, "Requests.", labels),
            responses: Statuses::new(registry, responses, "Responses.", labels, Style::Classified),
            latency_name,
            latency: OnceLock::new(),
            registry: registry.clone(),
            labels: labels.clone(),
        }
    }

    /// Counts a response.
    pub(crate) fn response(&self, end: &End, since: Instant, now: Instant) {
        self.responses.count(end);
        let millis = now.duration_since(since).as_secs_f64() * 1e3;
        if end.status == http::StatusCode::OK {
            let latency = self.latency.get_or_init(|| self.find(end));
            latency.record(millis);
        } else {
            self.find(end).record(millis);
        }
    }

    fn find(&self, end: &End) -> Histogram {
        let labels = self.labels.clone().with("status_code", end.status.as_u16());
        self.registry.histogram(
            self.latency_name,
            "Time to the end of the response.",
            LATENCY_MS,
            &labels,
        )
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
    /// `status` in numbers: gRPC on the way in.
    InboundGrpc,
    /// `status`: HTTP on the way in.
    InboundHttp,
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
                let failed = end.cancelled || end.is_failure();
                labels
                    .with("status_code", end.status.as_u16())
                    .with("classification", if failed { "failure" } else { "success" })
                    .with("grpc_status", number(end.grpc_status))
                    .with("error", error)
            }
            Style::Grpc => {
                let code = end
                    .grpc_status
                    .map_or(Code::Unknown, |code| Code::from_i32(code.into()));
                labels.with("grpc_status", name(code)).with("error", error)
            }
            Style::Http => {
                // Where there was no response there is no status.
                let status = match &end.error {
                    Some(_) => String::new(),
                    None => end.status.as_u16().to_string(),
                };
                labels.with("http_status", status).with("error", error)
            }
            Style::InboundGrpc => labels.with("status", number(end.grpc_status)),
            Style::InboundHttp => labels.with("status", end.status.as_u16()),
        };
        self.registry.counter(self.name, self.help, &labels)
    }
}

/// Nothing if there is none.
fn number(grpc_status: Option<u8>) -> String {
    grpc_status.map_or_else(String::new, |code| code.to_string())
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
    frames: Histogram,
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
    /// The sizes of frames: a route's of requests, a backend's of responses.
    pub(crate) frames: &'static str,
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
            frames: registry.histogram(
                families.frames,
                "Sizes of frames of data.",
                FRAME_BYTES,
                labels,
            ),
        }
    }

    /// Counts the frames of what these metrics are about.
    pub(crate) fn frames(&self) -> &Histogram {
        &self.frames
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

/// Counts the end of a response, and its frames, in some metrics.
#[derive(Debug)]
pub(crate) struct RouteObserver {
    metrics: std::sync::Arc<RouteMetrics>,
    since: Instant,
    frames: bool,
}

impl RouteObserver {
    /// Of a request that began at `since`.
    pub(crate) fn new(metrics: std::sync::Arc<RouteMetrics>, since: Instant) -> Self {
        Self {
            metrics,
            since,
            frames: false,
        }
    }

    /// Of the frames too.
    pub(crate) fn with_frames(self) -> Self {
        Self {
            frames: true,
            ..self
        }
    }
}

impl Observe for RouteObserver {
    fn data(&mut self, len: usize) {
        if self.frames {
            self.metrics.frames.record(len as f64);
        }
    }

    fn end(&mut self, end: &End, now: Instant) {
        self.metrics.response(end, self.since, now);
    }
}
