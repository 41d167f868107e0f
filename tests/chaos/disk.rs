//! A small disk for the data folder, which can be filled up: a file system in memory, in a mount namespace of this
//! program's own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;

/// Set inside: where it is mounted.
const FOLDER: &str = "SAGAMESH_CHAOS_DISK";
const MOUNT: &str =
    "mount -t tmpfs -o size=512m tmpfs \"$SAGAMESH_CHAOS_DISK\" && exec \"$0\" \"$@\"";

/// Whether the data folder is on such a disk.
pub(crate) fn is_small() -> bool {
    std::env::var_os(FOLDER).is_some()
}

/// The data folder on it.
pub(crate) fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(|disk| Path::new(&disk).join("data"))
}

/// Runs this program again with such a disk; `None` where that is not allowed.
pub(crate) fn enter() -> anyhow::Result<Option<ExitCode>> {
    let folder = tempfile::Builder::new()
        .prefix("sagamesh-chaos-")
        .tempdir()?;
    let allowed = Command::new("unshare")
        .args(["-Urm", "mount", "-t", "tmpfs", "tmpfs"])
        .arg(folder.path())
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let status = Command::new("unshare")
        .args(["-Urm", "sh", "-c", MOUNT])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(FOLDER, folder.path())
        .status()
        .context("cannot run unshare")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Some(ExitCode::from(code.unwrap_or(1))))
}

/// Fills the disk of `folder` up for this time.
pub(crate) async fn fill(folder: &Path, time: Duration) -> anyhow::Result<()> {
    let path = folder.join("ballast");
    let mut ballast = std::fs::File::create(&path)?;
    // Until there is no more: small pieces at the end, so that not one page is left.
    for size in [1 << 20, 1 << 12, 1] {
        let piece = vec![0; size];
        while ballast.write_all(&piece).is_ok() {}
    }
    tokio::time::sleep(time).await;
    drop(ballast);
    std::fs::remove_file(path).context("the disk stays full")
}
