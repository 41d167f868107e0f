//! Families of series, and the handles that count in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Labels;

/// How long a series without handles is still rendered, so that a scrape does not miss its last value.
const RETAIN: Duration = Duration::from_secs(600);

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
    fn new(bounds: &'static [f64]) -> Self {
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

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (at, cell) in self.0.counts.iter().enumerate() {
            count += cell.load(Ordering::Relaxed);
            let bound = self
                .0
                .bounds
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), |bound| format!("{bound:?}"));
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

/// All families of a process. A clone is the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<&'static str, Family>>>);

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: &'static str,
    series: BTreeMap<Labels, Series>,
}

#[derive(Debug)]
struct Series {
    handle: Handle,
    unused_since: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Handle {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Handle {
    fn is_held(&self) -> bool {
        let count = match self {
            Self::Counter(counter) => Arc::strong_count(&counter.0),
            Self::Gauge(gauge) => Arc::strong_count(&gauge.0),
            Self::Histogram(histogram) => Arc::strong_count(&histogram.0),
        };
        count > 1
    }
}

impl Registry {
    /// The counter of this name and these labels.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &Labels) -> Counter {
        match self.series(name, help, "counter", labels, || {
            Handle::Counter(Counter::default())
        }) {
            Handle::Counter(counter) => counter,
            _ => Counter::default(),
        }
    }

    /// The gauge of this name and these labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &Labels) -> Gauge {
        match self.series(name, help, "gauge", labels, || {
            Handle::Gauge(Gauge::default())
        }) {
            Handle::Gauge(gauge) => gauge,
            _ => Gauge::default(),
        }
    }

    /// The histogram of this name and these labels.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: &Labels,
    ) -> Histogram {
        match self.series(name, help, "histogram", labels, || {
            Handle::Histogram(Histogram::new(bounds))
        }) {
            Handle::Histogram(histogram) => histogram,
            _ => Histogram::new(bounds),
        }
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        labels: &Labels,
        make: impl FnOnce() -> Handle,
    ) -> Handle {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert_with(|| Family {
            help,
            kind,
            series: BTreeMap::new(),
        });
        debug_assert_eq!(family.kind, kind, "{name} is of another kind");
        let series = family
            .series
            .entry(labels.clone())
            .or_insert_with(|| Series {
                handle: make(),
                unused_since: None,
            });
        series.unused_since = None;
        series.handle.clone()
    }

    /// Drops series whose last handle is gone for long enough. To be called from time to time, whether or not somebody
    /// scrapes.
    pub fn prune(&self) {
        let now = Instant::now();
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        families.retain(|_, family| {
            family.series.retain(|_, series| {
                if series.handle.is_held() {
                    series.unused_since = None;
                    return true;
                }
                let since = *series.unused_since.get_or_insert(now);
                now.duration_since(since) < RETAIN
            });
            !family.series.is_empty()
        });
    }

    /// All series in Prometheus's text format.
    pub fn render(&self) -> String {
        // The text is written without the lock: threads of the data path wait for it.
        let families: Vec<_> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(name, family)| {
                let series = family.series.iter();
                let series: Vec<_> = series
                    .map(|(labels, series)| (labels.clone(), series.handle.clone()))
                    .collect();
                (*name, family.help, family.kind, series)
            })
            .collect();
        let mut out = String::new();
        for (name, help, kind, series) in &families {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, handle) in series {
                let labels = labels.as_str();
                match handle {
                    Handle::Counter(counter) => {
                        let _ = writeln!(out, "{name}{{{labels}}} {}", counter.get());
                    }
                    Handle::Gauge(gauge) => {
                        let _ = writeln!(
                            out,
                            "{name}{{{labels}}} {}",
                            gauge.0.load(Ordering::Relaxed)
                        );
                    }
                    Handle::Histogram(histogram) => histogram.render(&mut out, name, labels),
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn series_are_rendered_and_dropped_after_their_last_handle() {
        let registry = Registry::default();
        let labels = Labels::new().with("direction", "inbound");
        let counter = registry.counter("request_total", "Requests.", &labels);
        counter.add(2);
        registry
            .counter("request_total", "Requests.", &labels)
            .increment();
        let latency = registry.histogram("latency_ms", "Latency.", &[1.0, 5.0], &Labels::new());
        latency.record(0.5);
        latency.record(5.0);
        latency.record(7.0);
        let text = registry.render();
        assert!(
            text.contains("request_total{direction=\"inbound\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("latency_ms_bucket{le=\"1.0\"} 1\nlatency_ms_bucket{le=\"5.0\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("latency_ms_bucket{le=\"+Inf\"} 3\nlatency_ms_sum{} 12.5\n"),
            "{text}"
        );

        drop(counter);
        registry.prune();
        assert!(registry.render().contains("request_total"));
        tokio::time::advance(RETAIN).await;
        registry.prune();
        assert!(!registry.render().contains("request_total"));
        assert!(registry.render().contains("latency_ms"));
    }
}
