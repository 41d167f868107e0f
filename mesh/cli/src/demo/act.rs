//! An act: scenarios that are played on one temporary system.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::checks;
use super::scenarios::Scenario;
use super::stage::Stage;
use crate::failure::{Exit, Failure};
use crate::launcher::progress::Progress;
use crate::launcher::{Options, Running, interrupted};
use crate::output;

/// How one scenario went.
pub(super) struct Outcome {
    pub(super) name: &'static str,
    /// What was otherwise than it should; nothing when all is well.
    complaints: Vec<String>,
    seconds: f64,
    /// The folder of its system.
    pub(super) folder: PathBuf,
}

impl Outcome {
    pub(super) fn is_well(&self) -> bool {
        self.complaints.is_empty()
    }
}

/// Plays scenarios on a system of their own, and adds how they went to `outcomes`. The system's folder is removed when all went
/// well, unless it is to be kept.
pub(super) async fn play(
    options: &Options,
    scenarios: &[Scenario],
    keep: bool,
    outcomes: &mut Vec<Outcome>,
) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    // An error names the logs in its folder, so that stays.
    let mut running = Running::start(options, &mut progress).await?;
    progress.clear();
    output::line(&format!(
        "a temporary system is up after {:.1} s, in {}",
        running.start_time.as_secs_f64(),
        options.data_dir.display()
    ));
    let before = outcomes.len();
    let played = attended(&mut running, scenarios, outcomes).await;
    running.stop(&mut Progress::Quiet, interrupted()).await;
    played?;
    if !keep && outcomes[before..].iter().all(Outcome::is_well) {
        std::fs::remove_dir_all(&options.data_dir)
            .with_context(|| format!("cannot remove {}", options.data_dir.display()))?;
    }
    Ok(())
}

/// Plays the scenarios while the launcher looks after the processes.
async fn attended(
    running: &mut Running,
    scenarios: &[Scenario],
    outcomes: &mut Vec<Outcome>,
) -> anyhow::Result<()> {
    let mut stage = Stage::new(
        running.system.clone(),
        ["coordinator", "meshd", "gateway", "payments"]
            .map(|service| (service, running.levers(service)))
            .into(),
    )?;
    let mut playing = std::pin::pin!(play_all(&mut stage, scenarios, outcomes));
    let mut interrupt = std::pin::pin!(interrupted());
    loop {
        tokio::select! {
            played = &mut playing => return played,
            line = running.next_line() => output::line(&format!("   [{line}]")),
            () = &mut interrupt => return Err(Failure::new(Exit::Failed, "interrupted").into()),
        }
    }
}

async fn play_all(
    stage: &mut Stage,
    scenarios: &[Scenario],
    outcomes: &mut Vec<Outcome>,
) -> anyhow::Result<()> {
    stage.set_up().await?;
    for scenario in scenarios {
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
            folder: stage.system.data_dir.clone(),
        });
    }
    Ok(())
}

fn heading(text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// How all of them went.
pub(super) fn summary(outcomes: &[Outcome]) -> String {
    let mut table = output::table(&["scenario", "seconds", "ended"]);
    for outcome in outcomes {
        let ended = if outcome.is_well() {
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
