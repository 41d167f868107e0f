//! A rollout under way: two builds side by side on one PostgreSQL while customers order, then back again.
//!
//! `SAGAMESH_PREVIOUS_BIN_DIR` names the binaries of an earlier version. Without it both versions are this one: what is tested then is
//! that replacing everything, process by process, loses nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use ledger::testing;
use sagamesh_tests::campaign::{Customers, Outcome, rest_state};
use sagamesh_tests::{Options, System, binaries};

/// Orders that must have been accepted before the next process is replaced.
const BETWEEN: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

/// The binaries that are replaced, in the order of `docs/evolving.md`, with their processes.
const ROLLOUT: [(&str, &[&str]); 6] = [
    ("coordinator", &["coordinator-0", "coordinator-1"]),
    ("inventory", &["inventory-0", "inventory-1"]),
    ("payments", &["payments-0", "payments-1"]),
    ("notifications", &["notifications-0", "notifications-1"]),
    ("orders", &["orders-0", "orders-1"]),
    ("gateway", &["gateway-0", "gateway-1"]),
];

fn previous() -> anyhow::Result<PathBuf> {
    match std::env::var_os("SAGAMESH_PREVIOUS_BIN_DIR") {
        Some(folder) => Ok(folder.into()),
        None => {
            eprintln!(
                "SAGAMESH_PREVIOUS_BIN_DIR names no earlier version: this one replaces itself"
            );
            binaries::folder()
        }
    }
}

/// A new file in the place of the old one, which goes on running.
fn put(folder: &Path, name: &str, from: &Path) -> anyhow::Result<()> {
    let new = folder.join(format!("{name}.new"));
    std::fs::copy(from.join(name), &new)
        .with_context(|| format!("no {name} in {}", from.display()))?;
    std::fs::rename(new, folder.join(name))?;
    Ok(())
}

#[tokio::test]
async fn two_versions_run_side_by_side_on_the_way_there_and_back() -> anyhow::Result<()> {
    let Some(postgres) = testing::postgres().await else {
        return Ok(());
    };
    let (old, new) = (previous()?, binaries::folder()?);
    let folder = tempfile::tempdir()?;
    for name in ["sagamesh", "meshd", "sidecar"] {
        put(folder.path(), name, &new)?;
    }
    for (name, _) in ROLLOUT {
        put(folder.path(), name, &old)?;
    }
    let url = postgres.url("postgres");
    let replicas = ROLLOUT.map(|(name, _)| format!("{name}=2")).join(",");
    let arguments = [
        "--postgres",
        &url,
        "--database-prefix",
        "evolving",
        "--replicas",
        &replicas,
    ];
    let bin_dir = folder.path().display().to_string();
    let system = System::start_with(Options {
        arguments: arguments.map(str::to_owned).to_vec(),
        environment: vec![
            ("SAGAMESH_BIN_DIR", bin_dir.leak()),
            // That it opens for a minute is right, and would only make the test longer.
            ("SAGAMESH_BREAKER_RECOVERY", "1s"),
        ],
        ..Default::default()
    })
    .await?;
    let customers = Customers::start(&system).await?;
    customers
        .more(BETWEEN)
        .await
        .context("before the rollout")?;

    // There, and back in the opposite order: the first half of each pair runs beside the second for a while.
    let back = ROLLOUT.iter().rev().map(|one| (one, &old));
    for ((name, processes), version) in ROLLOUT.iter().map(|one| (one, &new)).chain(back) {
        put(folder.path(), name, version)?;
        for process in *processes {
            let before = system.roll(process).await?;
            system.until_back(process, before).await?;
            let when = || format!("{process} of {}", version.display());
            customers.more(BETWEEN).await.with_context(when)?;
        }
    }
    let ids = customers.stop().await?;
    let outcome = Outcome::of(&system, &ids, PATIENCE).await?;
    assert!(
        outcome.lost.is_empty()
            && outcome.doubled.is_empty()
            && outcome.stuck.is_empty()
            && outcome.given_up.is_empty(),
        "{outcome:#?}"
    );
    assert_eq!(rest_state(&system).await?, None);
    system.stop().await?;
    Ok(())
}
