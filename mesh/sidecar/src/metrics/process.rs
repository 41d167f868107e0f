//! What this process is, and what the operating system knows of it, in Prometheus's own names.

use std::fmt::Write as _;
use std::fs::read_to_string;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use super::{Labels, Registry};

/// When the process was first asked: when it started, as nearly as it matters.
static START: OnceLock<(Instant, f64)> = OnceLock::new();

fn started() -> (Instant, f64) {
    *START.get_or_init(|| (Instant::now(), unix_now()))
}

/// Says what this is. To be called at the start.
pub(crate) fn describe(registry: &Registry) {
    started();
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let labels = Labels::new()
        .with("date", "")
        .with("git_sha", "")
        .with("profile", profile)
        .with("vendor", "sagamesh")
        .with("version", env!("CARGO_PKG_VERSION"));
    registry
        .gauge("proxy_build_info", "What this is.", &labels)
        .set(1);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let list = |names: Vec<Option<&str>>| {
        names
            .into_iter()
            .flatten()
            .fold(String::new(), |all, name| all + name + ",")
    };
    let suites = provider.cipher_suites.iter();
    let groups = provider.kx_groups.iter();
    let labels = Labels::new()
        .with(
            "tls_suites",
            list(suites.map(|suite| suite.suite().as_str()).collect()),
        )
        .with(
            "tls_kx_groups",
            list(groups.map(|group| group.name().as_str()).collect()),
        )
        .with("tls_rand", format!("{:?}", provider.secure_random))
        .with("tls_key_provider", format!("{:?}", provider.key_provider))
        .with("tls_fips", provider.fips());
    registry
        .gauge("rustls_info", "What TLS is made of.", &labels)
        .set(1);
}

/// Time, memory, threads and open files; where there is no /proc, time alone.
pub fn render() -> String {
    let (start, start_unix) = started();
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some((kib * 1024).to_string())
    };
    let threads = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"));
    // Fields 14 and 15, counted behind the name, which may hold spaces; 100 ticks are a second on every Linux.
    let stat = read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let cpu = ticks(11)
        .zip(ticks(12))
        .map(|(user, system)| ((user + system) / 100.0).to_string());
    let files = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| entries.count().to_string());
    let limits = read_to_string("/proc/self/limits").unwrap_or_default();
    let max_files = limits.lines().find_map(|line| {
        let soft = line
            .strip_prefix("Max open files")?
            .split_whitespace()
            .next()?;
        Some(soft.to_owned()).filter(|soft| soft != "unlimited")
    });
    let mut text = String::new();
    for (name, kind, value) in [
        (
            "process_start_time_seconds",
            "gauge",
            Some(start_unix.to_string()),
        ),
        (
            "process_clock_time_seconds",
            "gauge",
            Some(unix_now().to_string()),
        ),
        (
            "process_uptime_seconds_total",
            "counter",
            Some(start.elapsed().as_secs_f64().to_string()),
        ),
        ("process_cpu_seconds_total", "counter", cpu),
        ("process_virtual_memory_bytes", "gauge", kib("VmSize:")),
        ("process_resident_memory_bytes", "gauge", kib("VmRSS:")),
        ("process_open_fds", "gauge", files),
        ("process_max_fds", "gauge", max_files),
        (
            "process_threads",
            "gauge",
            threads.map(|count| count.trim().to_owned()),
        ),
    ] {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
        }
    }
    text
}

fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
