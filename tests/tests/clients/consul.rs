//! Consul's Python client on the mesh's registry.

use std::path::Path;

use anyhow::Context as _;
use sagamesh_tests::System;
use tokio::process::Command;

use crate::tools::{output, python};

#[tokio::test]
async fn consuls_python_client_uses_the_registry_unchanged() -> anyhow::Result<()> {
    let Some(python) = python("consul", "install it (pip install py-consul)").await? else {
        return Ok(());
    };
    let system = System::start().await?;
    let record = system.record()?;
    let address = record["mesh"]["consul"]
        .as_str()
        .context("no address of Consul's API")?;
    let (host, port) = address
        .trim_start_matches("http://")
        .split_once(':')
        .context("an address without port")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/registry.py");
    output(Command::new(python).arg(script).args([host, port])).await?;
    system.stop().await?;
    Ok(())
}
