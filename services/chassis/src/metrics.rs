//! Metrics: the `metrics` macros everywhere, rendered for Prometheus at /metrics.
//!
//! Keep the handles (`let calls = metrics::counter!("...")`) where a thing happens often: the macro hashes its labels.
//! Names are snake_case with the unit at the end (`_seconds`, `_bytes`, `_total`).

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Bucket bounds of every `*_seconds` histogram: 100 µs to 60 s.
pub const SECONDS_BUCKETS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Bucket bounds of every other histogram (sizes of batches and the like): powers of two.
pub const COUNT_BUCKETS: [f64; 12] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];

/// What the operating system knows of this process, in Prometheus's own names; empty where there is no /proc.
pub(crate) fn process() -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    // Fields 14 and 15 (in hundredths of a second), counted behind the name, which may hold spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    let values = [
        (
            "process_resident_memory_bytes",
            "gauge",
            kib.map(|kib| (kib * 1024).to_string()),
        ),
        (
            "process_cpu_seconds_total",
            "counter",
            ticks(11)
                .zip(ticks(12))
                .map(|(user, system)| ((user + system) / 100.0).to_string()),
        ),
        (
            "process_open_fds",
            "gauge",
            descriptors.map(|count| count.to_string()),
        ),
    ];
    for (name, kind, value) in values {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
        }
    }
    text
}

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the process's recorder (once) and gives the handle that renders it.
pub fn install() -> PrometheusHandle {
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new();
            let builder = builder.set_buckets(&COUNT_BUCKETS).and_then(|b| {
                b.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            });
            // The bounds are constants that are not empty: the fallback (summaries) is never taken.
            let recorder = builder.unwrap_or_default().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed: /metrics will be empty");
            }
            handle
        })
        .clone()
}
