//! The binaries under test: built once per run, or taken from `SAGAMESH_BIN_DIR`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};

/// The folder of the binaries.
///
/// # Errors
/// When they cannot be built.
pub fn folder() -> anyhow::Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOLDER.get_or_init(|| match std::env::var_os("SAGAMESH_BIN_DIR") {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => build().map_err(|error| format!("{error:#}")),
    });
    found.clone().map_err(anyhow::Error::msg)
}

/// Path of one binary.
///
/// # Errors
/// When it is not there.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    let path = folder()?.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    ensure!(path.is_file(), "{} is not there", path.display());
    Ok(path)
}

/// `cargo test` builds no other package's binaries, so that is done here; what is fresh costs a moment. `--tests` makes cargo
/// choose the same features as `cargo test --workspace` did, so that no dependency is built twice.
fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--workspace",
            "--bins",
            "--tests",
            "--message-format=json",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the binaries do not build");
    let text = String::from_utf8(output.stdout).context("cargo's output is no text")?;
    for line in text.lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).context("cargo's output is no JSON")?;
        if message["target"]["name"] == "sagamesh"
            && message["profile"]["test"] == false
            && let Some(executable) = message["executable"].as_str()
        {
            let folder = PathBuf::from(executable).parent().map(PathBuf::from);
            return folder.context("an executable in no folder");
        }
    }
    anyhow::bail!("cargo built no binary named sagamesh")
}
