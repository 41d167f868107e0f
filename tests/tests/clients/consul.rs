//! Consul's own clients on the mesh's registry.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sagamesh_tests::System;
use tokio::process::Command;

use crate::tools::{not_tested, output, program, python, works};

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Runs `client` with the host and the port of a system's registry.
async fn on_a_registry(mut client: Command) -> anyhow::Result<()> {
    let system = System::start().await?;
    let record = system.record()?;
    let address = record["mesh"]["consul"]
        .as_str()
        .context("no address of Consul's API")?;
    let (host, port) = address
        .trim_start_matches("http://")
        .split_once(':')
        .context("an address without port")?;
    output(client.args([host, port])).await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn consuls_python_client_uses_the_registry_unchanged() -> anyhow::Result<()> {
    let Some(python) = python("consul", "install it (pip install py-consul)").await? else {
        return Ok(());
    };
    let mut client = Command::new(python);
    client.arg(programs().join("registry.py"));
    on_a_registry(client).await
}

#[tokio::test]
async fn consuls_go_client_uses_the_registry_unchanged() -> anyhow::Result<()> {
    let go = program("SAGAMESH_GO", "go");
    if !works(&go, &["version"]).await {
        return not_tested("Consul's Go client needs Go (SAGAMESH_GO names it)");
    }
    let mut client = Command::new(go);
    client
        .args(["run", "."])
        .current_dir(programs().join("registry-go"));
    on_a_registry(client).await
}
