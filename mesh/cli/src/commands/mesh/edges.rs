//! Who calls whom, as the sidecars count it. Pure.

use std::collections::BTreeMap;

use crate::metrics::{Sample, quantile};

/// What circuit breakers count, too: UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const FAILURES: [u8; 6] = [2, 4, 7, 13, 14, 15];

/// From one workload to one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    pub(super) from: String,
    pub(super) to: String,
}

/// What was counted on an edge.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) success: f64,
    pub(super) failure: f64,
    /// Responses that came over mTLS.
    pub(super) encrypted: f64,
    /// Calls without an end yet: long-lived streams, most of all.
    open: Open,
    /// Upper bounds in milliseconds, as the bits of an f64 (which order as the numbers do), with how many lie at or below.
    latency: BTreeMap<u64, f64>,
}

/// Calls that began, less those that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Open {
    all: f64,
    encrypted: f64,
}

/// All edges of one look.
pub(super) type Edges = BTreeMap<Edge, Counts>;

impl Counts {
    pub(super) fn all(&self) -> f64 {
        self.success + self.failure
    }

    /// Calls under way. A look is no single moment: one that ends meanwhile may be seen to end before it began.
    pub(super) fn live(&self) -> f64 {
        self.open.all.max(0.0)
    }

    /// Whether all of it is over mTLS; none if there is nothing.
    pub(super) fn mtls(&self) -> Option<bool> {
        let all = self.all() + self.live();
        (all > 0.0).then(|| self.encrypted + self.open.encrypted.max(0.0) >= all)
    }

    /// Share of successes.
    pub(super) fn success_rate(&self) -> Option<f64> {
        (self.all() > 0.0).then(|| self.success / self.all())
    }

    /// The latency in milliseconds below which a share of responses lies.
    pub(super) fn latency(&self, share: f64) -> Option<f64> {
        let buckets: Vec<_> = self
            .latency
            .iter()
            .map(|(bound, count)| (f64::from_bits(*bound), *count))
            .collect();
        quantile(&buckets, share)
    }

    /// What was counted since `before`; all of it when a sidecar began anew in between. Calls under way are those of now.
    pub(super) fn since(&self, before: Option<&Counts>) -> Counts {
        let Some(before) = before.filter(|before| before.all() <= self.all()) else {
            return self.clone();
        };
        let less = |(bound, count): (&u64, &f64)| {
            (*bound, count - before.latency.get(bound).unwrap_or(&0.0))
        };
        Counts {
            success: (self.success - before.success).max(0.0),
            failure: (self.failure - before.failure).max(0.0),
            encrypted: (self.encrypted - before.encrypted).max(0.0),
            open: self.open,
            latency: self.latency.iter().map(less).collect(),
        }
    }
}

impl Open {
    fn add(&mut self, sample: &Sample, calls: f64) {
        self.all += calls;
        if sample.label("tls") == "true" {
            self.encrypted += calls;
        }
    }
}

/// Adds what the sidecar of `from` counted on its way out.
pub(super) fn add(edges: &mut Edges, from: &str, samples: &[Sample]) {
    let outbound = samples
        .iter()
        .filter(|sample| sample.label("direction") == "outbound");
    for sample in outbound {
        let Some(to) = destination(sample) else {
            continue;
        };
        let edge = Edge {
            from: from.to_owned(),
            to,
        };
        match sample.name.as_str() {
            "request_total" => edges
                .entry(edge)
                .or_default()
                .open
                .add(sample, sample.value),
            "response_total" => {
                let counts = edges.entry(edge).or_default();
                counts.open.add(sample, -sample.value);
                if is_failure(sample) {
                    counts.failure += sample.value;
                } else {
                    counts.success += sample.value;
                }
                if sample.label("tls") == "true" {
                    counts.encrypted += sample.value;
                }
            }
            "response_latency_ms_bucket" => {
                let bound: f64 = sample.label("le").parse().unwrap_or(f64::INFINITY);
                let counts = edges.entry(edge).or_default();
                *counts.latency.entry(bound.to_bits()).or_default() += sample.value;
            }
            _ => {}
        }
    }
}

/// Whether these responses say that something does not work. "Not found", or another no of a service that works, is none.
fn is_failure(sample: &Sample) -> bool {
    match sample.label("grpc_status").parse() {
        Ok(status) => FAILURES.contains(&status),
        Err(_) => sample.label("classification") != "success",
    }
}

/// The service that answered.
fn destination(sample: &Sample) -> Option<String> {
    let service = sample.label("dst_service");
    let authority = sample.label("authority").split(['.', ':']).next();
    let name = if service.is_empty() {
        authority?
    } else {
        service
    };
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::parse;

    fn look(success: u32, failure: u32) -> Edges {
        let all = success + failure;
        let text = format!(
            r#"request_total{{direction="outbound",dst_service="orders",tls="true"}} {all}
request_total{{direction="outbound",dst_service="stock",tls="true"}} 5
request_total{{direction="outbound",dst_service="quiet",tls="no_identity"}} 1
response_total{{direction="outbound",dst_service="orders",tls="true",classification="success"}} {success}
response_total{{direction="outbound",dst_service="orders",tls="true",classification="failure"}} {failure}
response_total{{direction="outbound",dst_service="stock",tls="true",classification="failure",grpc_status="5"}} 1
response_total{{direction="outbound",dst_service="stock",tls="true",classification="failure",grpc_status="14"}} 1
response_latency_ms_bucket{{direction="outbound",dst_service="orders",le="1"}} 0
response_latency_ms_bucket{{direction="outbound",dst_service="orders",le="2"}} {all}
response_latency_ms_bucket{{direction="outbound",dst_service="orders",le="+Inf"}} {all}
response_total{{direction="inbound",tls="true",classification="success"}} 99"#
        );
        let mut edges = Edges::new();
        add(&mut edges, "gateway", &parse(&text));
        edges
    }

    #[test]
    fn edges_count_what_goes_out() {
        let edges = look(3, 1);
        let of = |name: &str| {
            let edge = edges.iter().find(|(edge, _)| edge.to == name);
            edge.expect("it is called").1
        };
        assert_eq!(edges.len(), 3);
        let stock = of("stock");
        assert_eq!((stock.success, stock.failure), (1.0, 1.0));
        // Streams that go on are seen, also where none has ended.
        assert_eq!((stock.live(), stock.mtls()), (3.0, Some(true)));
        assert_eq!(of("orders").live(), 0.0);
        let quiet = of("quiet");
        assert_eq!((quiet.live(), quiet.mtls()), (1.0, Some(false)));
        assert_eq!(quiet.success_rate(), None);
        let (edge, counts) = edges.iter().next().expect("three edges");
        assert_eq!(
            (edge.from.as_str(), edge.to.as_str()),
            ("gateway", "orders")
        );
        assert_eq!(counts.success_rate(), Some(0.75));
        assert_eq!(counts.encrypted, 4.0);
        assert_eq!(counts.latency(0.5), Some(1.5));
    }

    #[test]
    fn a_window_is_the_difference_and_survives_a_restart() {
        let (before, now) = (look(3, 1), look(5, 1));
        let (stock, counts) = now.iter().find(|(edge, _)| edge.to == "stock").expect("it");
        let window = counts.since(before.get(stock));
        assert_eq!((window.all(), window.live()), (0.0, 3.0));
        let edge = now.keys().next().expect("one edge");
        let window = now[edge].since(before.get(edge));
        assert_eq!((window.success, window.failure), (2.0, 0.0));
        assert_eq!(window.latency(0.5), Some(1.5));
        let anew = look(1, 0)[edge].since(now.get(edge));
        assert_eq!(anew.all(), 1.0);
        assert_eq!(now[edge].since(None), now[edge]);
    }
}
