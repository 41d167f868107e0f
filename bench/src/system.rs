//! A coordinator and its participants, as processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use chassis::{Env, PeerChannel};
use tokio::process::Command;

use crate::args::Common;
use crate::definition::{self, PARTICIPANTS};
use crate::process::{self, Running};

/// A coordinator process.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) process: Running,
    pub(crate) address: String,
    pub(crate) admin: String,
}

impl Coordinator {
    /// Starts one on this folder and waits until it is ready. `listen` is an address of before, or port 0.
    pub(crate) async fn start(
        common: &Common,
        folder: &Path,
        listen: &str,
    ) -> anyhow::Result<Self> {
        let binary = match &common.coordinator {
            Some(binary) => binary.clone(),
            None => process::beside("coordinator")?,
        };
        let addresses = folder.join("addresses.json");
        // The file of an earlier start on this folder.
        let _ = std::fs::remove_file(&addresses);
        let mut command = Command::new(binary);
        command.args([
            "--listen",
            listen,
            "--admin-listen",
            "127.0.0.1:0",
            "--exit-with-parent",
        ]);
        command
            .arg("--addresses-file")
            .arg(&addresses)
            .arg("--data-dir")
            .arg(folder);
        command
            .args(["--participants", &PARTICIPANTS.join(",")])
            .stdout(Stdio::null());
        let running = Running::spawn(command, &folder.join("coordinator.log"))?;
        let (grpc, admin) = process::addresses(&addresses).await?;
        process::ready(&admin).await?;
        Ok(Self {
            process: running,
            address: format!("http://{grpc}"),
            admin,
        })
    }

    pub(crate) fn channel(&self) -> PeerChannel {
        chassis::channel(&Env::system(), &self.address)
    }

    /// Where it listens, for a restart.
    pub(crate) fn listen(&self) -> &str {
        self.address.trim_start_matches("http://")
    }

    /// Events that its projections are behind its log.
    pub(crate) async fn behind(&self) -> anyhow::Result<f64> {
        process::counter(&self.admin, "ledger_projection_lag").await
    }

    pub(crate) async fn commits(&self) -> anyhow::Result<f64> {
        process::counter(&self.admin, "ledger_commits_total").await
    }
}

/// Where participants keep what they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Nowhere: one process with all three.
    Memory,
    /// In a ledger each, below this folder: three processes.
    Durable(PathBuf),
}

/// Starts the three participants and waits until they are connected.
pub(crate) async fn participants(
    coordinator: &Coordinator,
    keeping: &Keeping,
    log: &Path,
) -> anyhow::Result<Vec<Running>> {
    let mut running = Vec::new();
    match keeping {
        Keeping::Memory => running.push(participant(
            coordinator,
            &PARTICIPANTS.join(","),
            None,
            log,
        )?),
        Keeping::Durable(folder) => {
            for name in PARTICIPANTS {
                running.push(participant(coordinator, name, Some(folder), log)?);
            }
        }
    }
    for process in &mut running {
        process.line("connected").await?;
    }
    Ok(running)
}

fn participant(
    coordinator: &Coordinator,
    names: &str,
    ledger: Option<&Path>,
    log: &Path,
) -> anyhow::Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "participant",
        "--names",
        names,
        "--address",
        &coordinator.address,
    ]);
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--exit-with-parent",
    ]);
    if let Some(folder) = ledger {
        command.arg("--ledger").arg(folder);
    }
    command.stdout(Stdio::piped());
    Running::spawn(command, log)
}

/// A whole system: coordinator, participants, and the definition active.
pub(crate) async fn whole(
    common: &Common,
    folder: &Path,
    keeping: &Keeping,
) -> anyhow::Result<(Coordinator, Vec<Running>)> {
    let coordinator = Coordinator::start(common, folder, "127.0.0.1:0").await?;
    definition::register(coordinator.channel()).await?;
    let participants =
        participants(&coordinator, keeping, &folder.join("participants.log")).await?;
    Ok((coordinator, participants))
}
