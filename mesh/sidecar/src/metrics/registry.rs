//! Families of series, by name and labels.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Labels;
use super::handles::{Counter, FloatGauge, Gauge, Handle, Histogram};

/// How long a series without handles is still rendered, so that a scrape does not miss its last value.
const RETAIN: Duration = Duration::from_secs(600);

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

    /// The gauge with a fraction of this name and these labels.
    pub fn float_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &Labels,
    ) -> FloatGauge {
        match self.series(name, help, "gauge", labels, || {
            Handle::FloatGauge(FloatGauge::default())
        }) {
            Handle::FloatGauge(gauge) => gauge,
            _ => FloatGauge::default(),
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
                handle.render(&mut out, name, labels.as_str());
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
            text.contains("latency_ms_bucket{le=\"1\"} 1\nlatency_ms_bucket{le=\"5\"} 2\n"),
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
