//! Programs and libraries that are not this project's: where they are, and what to do when they are not.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

/// The folder of this repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Says that a test was left out because something is missing, and what to do; with `SAGAMESH_REQUIRE_CLIENTS=1` that is a failure.
pub(crate) fn not_tested(sentence: &str) -> anyhow::Result<()> {
    ensure!(
        std::env::var_os("SAGAMESH_REQUIRE_CLIENTS").is_none(),
        "{sentence}"
    );
    eprintln!("NOT TESTED: {sentence}");
    Ok(())
}

/// A program: named by a variable, or the machine's own.
pub(crate) fn program(variable: &str, name: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| name.into())
}

/// The Python that has a library: `SAGAMESH_PYTHON`, or that of `make stubs-python`, or the machine's own.
pub(crate) async fn python(library: &str, how: &str) -> anyhow::Result<Option<String>> {
    let stubs = root().join("clients/python/.venv/bin/python");
    let default = if stubs.exists() {
        stubs.display().to_string()
    } else {
        "python3".into()
    };
    let python = program("SAGAMESH_PYTHON", &default);
    if works(&python, &["-c", &format!("import {library}")]).await {
        return Ok(Some(python));
    }
    not_tested(&format!(
        "{python} has no library {library}: {how}, and name another Python in SAGAMESH_PYTHON"
    ))?;
    Ok(None)
}

pub(crate) async fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// Runs a command to its end, which must be a good one, and returns what it printed.
pub(crate) async fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {:?}", command.as_std()))?;
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{:?} ended with {}:\n{out}{errors}",
        command.as_std(),
        output.status
    );
    Ok(out.into_owned())
}
