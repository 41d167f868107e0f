//! What the operating system knows of this process, in Prometheus's own names.

use std::fmt::Write as _;

/// Memory, CPU time and open files; empty where there is no /proc.
pub fn render() -> String {
    let mut text = String::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| {
        let kib: u64 = line
            .strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()?;
        Some((kib * 1024).to_string())
    });
    // Fields 14 and 15, counted behind the name, which may hold spaces; 100 ticks are a second on every Linux.
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
    let cpu = ticks(11)
        .zip(ticks(12))
        .map(|(user, system)| ((user + system) / 100.0).to_string());
    let files = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| entries.count().to_string());
    for (name, kind, value) in [
        ("process_resident_memory_bytes", "gauge", resident),
        ("process_cpu_seconds_total", "counter", cpu),
        ("process_open_fds", "gauge", files),
    ] {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
        }
    }
    text
}
