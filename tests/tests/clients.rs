//! Clients that others wrote, unchanged, on a running system.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use sagamesh_tests::System;
use tokio::process::Command;

/// The Python that has the clients' libraries: `SAGAMESH_PYTHON`, or the machine's own. With `SAGAMESH_REQUIRE_CLIENTS=1` they must be
/// there; otherwise the test says loudly that it was left out.
async fn python(library: &str) -> anyhow::Result<Option<String>> {
    let python = std::env::var("SAGAMESH_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python)
        .args(["-c", &format!("import {library}")])
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok_and(|status| status.success());
    if has {
        return Ok(Some(python));
    }
    let sentence = format!(
        "{python} has no library {library}: install it (pip install py-consul) and name that Python in SAGAMESH_PYTHON"
    );
    ensure!(
        std::env::var_os("SAGAMESH_REQUIRE_CLIENTS").is_none(),
        "{sentence}"
    );
    eprintln!("NOT TESTED: {sentence}");
    Ok(None)
}

#[tokio::test]
async fn consuls_python_client_uses_the_registry_unchanged() -> anyhow::Result<()> {
    let Some(python) = python("consul").await? else {
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
    let output = Command::new(python)
        .arg(script)
        .args([host, port])
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    system.stop().await?;
    Ok(())
}
