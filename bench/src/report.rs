//! What is printed.

use std::time::Duration;

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) clients: usize,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) coordinator_us: f64,
    pub(crate) participants_us: f64,
    pub(crate) client_us: f64,
    pub(crate) commits: f64,
    pub(crate) rss_mb: f64,
    pub(crate) compensated: u64,
    /// Events that the table of sagas was behind the log at the end.
    pub(crate) behind: f64,
}

/// The line above the rows.
pub(crate) fn heading() {
    println!();
    println!(
        "{:<22} {:>7} {:>9} {:>8} {:>8}   {:>34} {:>9} {:>8} {:>8}",
        "", "", "", "p50", "p99", "CPU µs per saga", "commits", "RSS", "list is"
    );
    println!(
        "{:<22} {:>7} {:>9} {:>8} {:>8}   {:>11} {:>12} {:>9} {:>9} {:>8} {:>8}",
        "run",
        "clients",
        "sagas/s",
        "ms",
        "ms",
        "coordinator",
        "participants",
        "client",
        "per saga",
        "MB",
        "behind"
    );
}

impl Row {
    pub(crate) fn print(&self) {
        println!(
            "{:<22} {:>7} {:>9.0} {:>8.2} {:>8.2}   {:>11.1} {:>12.1} {:>9.1} {:>9.3} {:>8.1} {:>8.0}{}",
            self.name,
            self.clients,
            self.per_second,
            millis(self.p50),
            millis(self.p99),
            self.coordinator_us,
            self.participants_us,
            self.client_us,
            self.commits,
            self.rss_mb,
            self.behind,
            if self.compensated > 0 {
                format!("   ({} compensated)", self.compensated)
            } else {
                String::new()
            }
        );
    }
}

/// The last line: for scripts.
pub(crate) fn last_line(rows: &[Row]) {
    let find = |name: &str, clients: usize| {
        rows.iter()
            .find(|row| row.name == name && row.clients == clients)
    };
    let (Some(memory), Some(single), Some(durable)) =
        (find("memory", 64), find("memory", 1), find("durable", 64))
    else {
        println!(
            "\n(the summary needs the runs memory with 1 and 64 clients, and durable with 64)"
        );
        return;
    };
    println!(
        "\nbench sagas_per_second={:.0} p50_ms={:.2} p99_ms={:.2} single_p50_ms={:.2} durable_sagas_per_second={:.0} coordinator_rss_mb={:.0} coordinator_cpu_us_per_saga={:.1} commits_per_saga={:.3}",
        memory.per_second,
        millis(memory.p50),
        millis(memory.p99),
        millis(single.p50),
        durable.per_second,
        memory.rss_mb,
        memory.coordinator_us,
        memory.commits,
    );
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
