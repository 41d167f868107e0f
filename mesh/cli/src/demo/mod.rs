//! `sagamesh demo`: plays the shop's scenarios on a temporary system of their own, draws each saga, and checks how each
//! ends, the books and the stock.

mod checks;
mod mesh;
mod scenarios;
mod stage;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::args::Demo;
use crate::failure::{Exit, Failure};
use crate::launcher::mesh::Sidecar;
use crate::launcher::progress::Progress;
use crate::launcher::{Options, Running, interrupted, namespace};
use crate::output;
use stage::Stage;

/// How one scenario went.
struct Outcome {
    name: &'static str,
    /// What was otherwise than it should; nothing when all is well.
    complaints: Vec<String>,
    seconds: f64,
}

pub(crate) async fn run(demo: Demo) -> anyhow::Result<ExitCode> {
    if matches!(demo.mesh.sidecar, Sidecar::Linkerd(_)) && !namespace::is_inside() {
        return namespace::enter(0).await;
    }
    let folder = std::env::temp_dir().join(format!("sagamesh-demo-{}", std::process::id()));
    let options = Options {
        data_dir: folder.clone(),
        bin_dir: demo.binaries.bin_dir,
        port: 0,
        postgres: None,
        database_prefix: String::new(),
        only: vec![],
        replicas: vec![],
        sidecar: demo.mesh.sidecar,
        policy_dir: demo.mesh.policy_dir,
        certificate_lifetime: Some("20s"),
        start_timeout: demo.binaries.start_timeout,
    };
    let mut progress = Progress::new();
    let mut running = match Running::start(&options, &mut progress).await {
        Ok(running) => running,
        Err(error) => {
            // The error names the logs in it, so it stays.
            return Err(error);
        }
    };
    progress.clear();
    output::line(&format!(
        "a temporary system is up after {:.1} s, in {}",
        running.start_time.as_secs_f64(),
        folder.display()
    ));
    let outcomes = play(&mut running, demo.only.as_deref()).await;
    running.stop(&mut Progress::Quiet, interrupted()).await;
    let well = outcomes
        .as_ref()
        .is_ok_and(|outcomes| outcomes.iter().all(|outcome| outcome.complaints.is_empty()));
    tidy(&folder, well && !demo.keep)?;
    let outcomes = outcomes?;
    output::line(&format!("\n{}", summary(&outcomes)));
    if well {
        output::line(
            "\nEvery scenario ended as it should, the books balance and no stock is lost.",
        );
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "\nTHE DEMO FAILED. The system's logs and data are in {}.",
        folder.display()
    ));
    Ok(Exit::EndedOtherwise.into())
}

/// Plays the scenarios while the launcher looks after the processes.
async fn play(running: &mut Running, only: Option<&str>) -> anyhow::Result<Vec<Outcome>> {
    let mut stage = Stage::new(
        running.system.clone(),
        ["coordinator", "meshd"]
            .map(|service| (service, running.levers(service)))
            .into(),
    )?;
    let mut playing = std::pin::pin!(play_all(&mut stage, only));
    let mut interrupt = std::pin::pin!(interrupted());
    loop {
        tokio::select! {
            outcomes = &mut playing => return outcomes,
            line = running.next_line() => output::line(&format!("   [{line}]")),
            () = &mut interrupt => return Err(Failure::new(Exit::Failed, "interrupted").into()),
        }
    }
}

async fn play_all(stage: &mut Stage, only: Option<&str>) -> anyhow::Result<Vec<Outcome>> {
    stage.set_up().await?;
    let mut outcomes = Vec::new();
    for scenario in scenarios::all() {
        if only.is_some_and(|only| !scenario.name.contains(only))
            || scenario.needs_mesh() && stage.system.mesh.is_none()
        {
            continue;
        }
        output::line(&format!(
            "\n{}",
            heading(&format!("{}. {}", outcomes.len() + 1, scenario.name))
        ));
        output::line(&format!("   {}", scenario.story));
        let begun = std::time::Instant::now();
        let mut complaints = match scenario.play(stage).await {
            Ok(complaints) => complaints,
            Err(error) => vec![format!("{error:#}")],
        };
        complaints.extend(checks::books_and_stock(stage).await?);
        for complaint in &complaints {
            output::line(&format!("   NOT AS IT SHOULD: {complaint}"));
        }
        outcomes.push(Outcome {
            name: scenario.name,
            complaints,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }
    if outcomes.is_empty() {
        return Err(Failure::new(Exit::Usage, "no scenario has such a name").into());
    }
    Ok(outcomes)
}

fn heading(text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn summary(outcomes: &[Outcome]) -> String {
    let mut table = output::table(&["scenario", "seconds", "ended"]);
    for outcome in outcomes {
        let ended = if outcome.complaints.is_empty() {
            "as it should"
        } else {
            "NOT AS IT SHOULD"
        };
        table.add_row([
            outcome.name.to_owned(),
            format!("{:.1}", outcome.seconds),
            ended.to_owned(),
        ]);
    }
    output::text(&table)
}

fn tidy(folder: &PathBuf, remove: bool) -> anyhow::Result<()> {
    if remove {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}
