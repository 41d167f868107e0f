//! What is counted of a balancer. All threads have one of the same name: gauges are what they are together.

use std::time::{Duration, SystemTime};

use crate::metrics::{Counter, FloatGauge, Gauge, Histogram, Labels, QUEUE_SECONDS, Registry};

/// What is counted of a balancer.
#[derive(Debug)]
pub(super) struct Metrics {
    ready: Gauge,
    pending: Gauge,
    endpoints: Gauge,
    resets: Counter,
    gate_open: Counter,
    gate_shut: Counter,
    gate_open_time: FloatGauge,
    gate_shut_time: FloatGauge,
    /// What this thread's balancer adds to the gauges: ready, and all.
    counted: [i64; 2],
}

/// What is counted of requests on their way to an endpoint.
#[derive(Debug)]
pub(super) struct Queue {
    /// Requests that wait.
    pub(super) length: Gauge,
    /// Requests that came.
    pub(super) requests: Counter,
    /// How long they waited, if at all.
    pub(super) latency: Histogram,
}

impl Queue {
    /// With these labels.
    pub(super) fn new(registry: &Registry, labels: &Labels) -> Self {
        Self {
            length: registry.gauge(
                "outbound_http_balancer_queue_length",
                "Requests that wait for an endpoint.",
                labels,
            ),
            requests: registry.counter(
                "outbound_http_balancer_queue_requests_total",
                "Requests of a balancer.",
                labels,
            ),
            latency: registry.histogram(
                "outbound_http_balancer_queue_latency_seconds",
                "Time that requests waited for an endpoint.",
                QUEUE_SECONDS,
                labels,
            ),
        }
    }
}

impl Metrics {
    /// With these labels, and so much time until requests fail at once.
    pub(super) fn new(registry: &Registry, labels: &Labels, failfast: Duration) -> Self {
        let counter = |name, help| registry.counter(name, help, labels);
        let gauge = |name, help| registry.gauge(name, help, labels);
        let time = |name, help| registry.float_gauge(name, help, labels);
        let endpoints = |state: &str| {
            let labels = Labels::new().with("endpoint_state", state).and(labels);
            registry.gauge(
                "outbound_http_balancer_endpoints",
                "Endpoints of a balancer by state.",
                &labels,
            )
        };
        let updates = |op: &str| {
            let labels = Labels::new().with("op", op).and(labels);
            registry.counter(
                "outbound_http_balancer_p2c_updates_total",
                "Updates of a balancer's endpoints.",
                &labels,
            )
        };
        time(
            "outbound_http_balancer_queue_gate_timeout_seconds",
            "Time without an endpoint after which requests fail at once.",
        )
        .set(failfast.as_secs_f64());
        let metrics = Self {
            ready: endpoints("ready"),
            pending: endpoints("pending"),
            endpoints: gauge(
                "outbound_http_balancer_p2c_endpoints",
                "Endpoints of a balancer.",
            ),
            resets: updates("Reset"),
            gate_open: counter(
                "outbound_http_balancer_queue_gate_open_total",
                "Times that requests began to be taken.",
            ),
            gate_shut: counter(
                "outbound_http_balancer_queue_gate_shut_total",
                "Times that requests began to fail at once.",
            ),
            gate_open_time: time(
                "outbound_http_balancer_queue_gate_open_time_seconds",
                "When requests began to be taken, or 0.",
            ),
            gate_shut_time: time(
                "outbound_http_balancer_queue_gate_shut_time_seconds",
                "When requests began to fail at once, or 0.",
            ),
            counted: [0; 2],
        };
        metrics.opened();
        metrics
    }

    /// The endpoints were told anew: this sidecar takes each update as a whole.
    pub(super) fn updated(&self) {
        self.resets.increment();
    }

    /// So many endpoints can be used, of so many. Each thread adds what changed of its own.
    pub(super) fn count(&mut self, ready: usize, all: usize) {
        let now = [ready as i64, all as i64];
        if now != self.counted {
            let [more_ready, more] = [now[0] - self.counted[0], now[1] - self.counted[1]];
            self.ready.add(more_ready);
            self.pending.add(more - more_ready);
            self.endpoints.add(more);
            self.counted = now;
        }
    }

    /// Requests are taken from now on.
    pub(super) fn opened(&self) {
        self.gate_open.increment();
        self.gate_open_time.set(unix_now());
        self.gate_shut_time.set(0.0);
    }

    /// Requests fail at once from now on.
    pub(super) fn shut(&self) {
        self.gate_shut.increment();
        self.gate_shut_time.set(unix_now());
        self.gate_open_time.set(0.0);
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.count(0, 0);
    }
}

fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
