//! `sagamesh mesh top`: calls between workloads as they happen.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::edges::{self, Counts, Edges};
use crate::args::Common;
use crate::failure::{Exit, Failure};
use crate::launcher::interrupted;
use crate::metrics;
use crate::output::{self, Format};
use crate::system::{Role, System};

/// To the upper left, and everything below away.
const REDRAW: &str = "\x1b[H\x1b[J";
const CLEAR: &str = "\x1b[2J";

pub(super) async fn run(
    common: &Common,
    system: &System,
    once: bool,
    every: Duration,
) -> anyhow::Result<ExitCode> {
    if once || common.output == Format::Json || !std::io::stdout().is_terminal() {
        let edges = look(system).await?;
        match common.output {
            Format::Json => output::line(&serde_json::to_string_pretty(&json(&edges))?),
            Format::Table => output::line(&table(&edges, None)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    live(system, every).await
}

async fn live(system: &System, every: Duration) -> anyhow::Result<ExitCode> {
    let mut interrupt = std::pin::pin!(interrupted());
    let mut before = look(system).await?;
    let mut looked = Instant::now();
    draw(&format!("{CLEAR}{REDRAW}looking for {every:?} ..."))?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = &mut interrupt => {
                output::line("");
                return Ok(ExitCode::SUCCESS);
            }
        }
        let now = look(system).await?;
        let seconds = looked.elapsed().as_secs_f64();
        looked = Instant::now();
        let window: Edges = now
            .iter()
            .map(|(edge, counts)| (edge.clone(), counts.since(before.get(edge))))
            .collect();
        let shown = table(&window, Some(seconds));
        draw(&format!(
            "{REDRAW}calls of the last {seconds:.0} s; Ctrl-C ends\n\n{shown}\n"
        ))?;
        before = now;
    }
}

fn draw(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What all sidecars have counted so far. One that is being started again is passed over.
pub(super) async fn look(system: &System) -> anyhow::Result<Edges> {
    let sidecars: Vec<_> = system
        .processes
        .iter()
        .filter(|process| process.role == Role::Sidecar)
        .collect();
    let answers = join_all(sidecars.iter().map(|one| metrics::read(&one.admin))).await;
    if answers.iter().all(Result::is_err) {
        return Err(
            Failure::new(Exit::NotRunning, "no sidecar shows its metrics")
                .hint("`sagamesh mesh check` says why.")
                .into(),
        );
    }
    let mut all = Edges::new();
    for (sidecar, samples) in sidecars.iter().zip(answers) {
        edges::add(&mut all, &sidecar.service, &samples.unwrap_or_default());
    }
    Ok(all)
}

/// `seconds` is the length of the window; none for everything since the start.
fn table(edges: &Edges, seconds: Option<f64>) -> String {
    let amount = if seconds.is_some() { "rps" } else { "calls" };
    let header = [
        "from", "to", "mtls", "success", amount, "live", "p50", "p95", "p99",
    ];
    let mut table = output::table(&header);
    for (edge, counts) in edges {
        let amount = match seconds {
            Some(seconds) => format!("{:.1}", counts.all() / seconds),
            None => format!("{:.0}", counts.all()),
        };
        let latency = |share| {
            let millis = counts.latency(share);
            millis.map_or_else(|| "-".into(), |millis| format!("{millis:.0} ms"))
        };
        table.add_row([
            edge.from.clone(),
            edge.to.clone(),
            mtls(counts).into(),
            percent(counts),
            amount,
            format!("{:.0}", counts.live()),
            latency(0.5),
            latency(0.95),
            latency(0.99),
        ]);
    }
    output::text(&table)
}

fn mtls(counts: &Counts) -> &'static str {
    match counts.mtls() {
        None => "-",
        Some(true) => "yes",
        Some(false) => "NO",
    }
}

fn percent(counts: &Counts) -> String {
    let rate = counts.success_rate();
    rate.map_or_else(|| "-".into(), |rate| format!("{:.1} %", rate * 100.0))
}

fn json(edges: &Edges) -> serde_json::Value {
    let edge = |(edge, counts): (&edges::Edge, &Counts)| {
        serde_json::json!({
            "from": edge.from,
            "to": edge.to,
            "success": counts.success,
            "failure": counts.failure,
            "encrypted": counts.encrypted,
            "live": counts.live(),
            "latencyMillis": {
                "p50": counts.latency(0.5),
                "p95": counts.latency(0.95),
                "p99": counts.latency(0.99),
            },
        })
    };
    serde_json::json!({ "edges": edges.iter().map(edge).collect::<Vec<_>>() })
}
