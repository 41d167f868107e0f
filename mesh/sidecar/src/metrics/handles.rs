//! The handles that count: each is an atomic or a fixed row of them, shared with the registry that renders it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it counted.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the number.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number.
    pub(super) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number with a fraction that is set now and then.
#[derive(Clone, Debug, Default)]
pub struct FloatGauge(Arc<AtomicU64>);

impl FloatGauge {
    /// Replaces the number.
    pub fn set(&self, n: f64) {
        self.0.store(n.to_bits(), Ordering::Relaxed);
    }

    /// The number.
    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Counts of values by their size.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// In millionths, so that one atomic holds fractions too.
    sum_micros: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Cells {
            bounds,
            counts,
            sum_micros: AtomicU64::new(0),
        }))
    }

    /// Counts a value.
    pub fn record(&self, value: f64) {
        let at = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[at].fetch_add(1, Ordering::Relaxed);
        self.0
            .sum_micros
            .fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    pub(super) fn render(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (at, cell) in self.0.counts.iter().enumerate() {
            count += cell.load(Ordering::Relaxed);
            let bound = self
                .0
                .bounds
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), |bound| bound_text(name, *bound));
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
            );
        }
        let sum = self.0.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(
            out,
            "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}"
        );
    }
}

/// Linkerd's proxy writes the bounds of its older families, those in milliseconds, without a fraction.
fn bound_text(name: &str, bound: f64) -> String {
    if name.ends_with("_ms") {
        bound.to_string()
    } else {
        format!("{bound:?}")
    }
}

/// Any of them, as the registry holds it.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    /// A counter.
    Counter(Counter),
    /// A gauge.
    Gauge(Gauge),
    /// A gauge with a fraction.
    FloatGauge(FloatGauge),
    /// A histogram.
    Histogram(Histogram),
}

impl Handle {
    /// Whether somebody else holds it too.
    pub(super) fn is_held(&self) -> bool {
        let count = match self {
            Self::Counter(counter) => Arc::strong_count(&counter.0),
            Self::Gauge(gauge) => Arc::strong_count(&gauge.0),
            Self::FloatGauge(gauge) => Arc::strong_count(&gauge.0),
            Self::Histogram(histogram) => Arc::strong_count(&histogram.0),
        };
        count > 1
    }

    /// Its lines in Prometheus's text format.
    pub(super) fn render(&self, out: &mut String, name: &str, labels: &str) {
        let value = match self {
            Self::Counter(counter) => counter.get().to_string(),
            Self::Gauge(gauge) => gauge.get().to_string(),
            Self::FloatGauge(gauge) => gauge.get().to_string(),
            Self::Histogram(histogram) => return histogram.render(out, name, labels),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name}{{{labels}}} {value}");
    }
}
