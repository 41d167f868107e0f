//! The Python library for participants: the cases that every such library passes, and a service beside those in Rust.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sagamesh_api::shop::inventory::v1::GetItemRequest;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_tests::System;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::tools::{output, python, root};

/// The longest that the service may take to be connected, or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const LIBRARY: &str = "saga_participant.sqlite, saga_participant.postgres";
const HOW: &str = "run `make stubs-python`";

#[tokio::test]
async fn the_python_library_passes_the_conformance_cases() -> anyhow::Result<()> {
    let Some(python) = python(LIBRARY, HOW).await? else {
        return Ok(());
    };
    let mut command = Command::new(python);
    command.arg(root().join("clients/python/tests/conformance.py"));
    if let Some(postgres) = ledger::testing::postgres().await {
        command.arg(postgres.database().await);
    }
    let text = output(&mut command).await?;
    ensure!(text.contains(" passed, 0 failed"), "{text}");
    Ok(())
}

#[tokio::test]
async fn the_python_library_passes_its_own_tests() -> anyhow::Result<()> {
    let Some(python) = python(LIBRARY, HOW).await? else {
        return Ok(());
    };
    let mut command = Command::new(python);
    command
        .args(["-m", "unittest", "discover", "--start-directory"])
        .arg(root().join("clients/python/tests"));
    output(&mut command).await?;
    Ok(())
}

/// What is left of an item that is in nobody's hands.
async fn available(system: &System, sku: &str) -> anyhow::Result<u64> {
    let url = system.url("inventory")?;
    let mut inventory =
        InventoryServiceClient::new(chassis::channel(&chassis::Env::system(), &url));
    let item = inventory
        .get_item(GetItemRequest {
            sku: sku.into(),
            ..Default::default()
        })
        .await?;
    Ok(item.into_inner().item.context("no item")?.available)
}

#[tokio::test]
async fn a_python_service_joins_sagas_beside_those_in_rust() -> anyhow::Result<()> {
    let Some(python) = python(LIBRARY, HOW).await? else {
        return Ok(());
    };
    let system = System::start().await?;
    system.restock("mouse", 10, 2_900).await?;
    let mut service = Command::new(python)
        .arg(root().join("clients/python/examples/points.py"))
        .env("SAGAMESH_COORDINATOR", system.url("coordinator")?)
        .env("POINTS_DATABASE", system.folder().join("points.db"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(service.stdout.take().context("no stdout")?).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    ensure!(line.as_deref() == Some("points: connected"), "{line:?}");

    let start = async |definition: &str, points: &str| {
        let points = format!("points={points}");
        let mut arguments = vec!["saga", "start", definition, "--wait"];
        arguments.extend(["-i", "customer_id=alice", "-i", &points]);
        arguments.extend(["-i", r#"lines=[{"sku":"mouse","quantity":2}]"#]);
        system.run(&arguments).await
    };
    let ends = async |definition, points, expected: &str| {
        let ended = start(definition, points).await?;
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(text.contains(expected), "{definition}: {text}{errors}");
        anyhow::Ok(())
    };
    ends("give-points", "100", "is COMPLETED").await?;
    ends("pay-with-points", "60", "is COMPLETED").await?;
    ensure!(available(&system, "mouse").await? == 8);
    // Forty are left: Python says no, and Rust gives the stock back.
    ends("pay-with-points", "60", "TOO_FEW_POINTS").await?;
    ensure!(available(&system, "mouse").await? == 8);
    ends("pay-with-points", "40", "is COMPLETED").await?;
    ensure!(available(&system, "mouse").await? == 6);

    let pid = service.id().context("the service has ended by itself")?;
    let sent = Command::new("kill").arg(pid.to_string()).status().await?;
    ensure!(sent.success(), "cannot signal the service");
    let status = tokio::time::timeout(PATIENCE, service.wait()).await??;
    ensure!(status.success(), "the service ended with {status}");
    system.stop().await?;
    Ok(())
}
