//! The binaries that a system runs, checked before anything is started.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::failure::{Exit, Failure};
use crate::launcher::mesh::Sidecar;
use crate::launcher::plan::Plan;

/// Their folder.
pub(super) fn folder(
    given: Option<&Path>,
    plan: &Plan,
    sidecar: &Sidecar,
) -> anyhow::Result<PathBuf> {
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => {
            let own = std::env::current_exe().context("cannot find out where this program is")?;
            own.parent()
                .context("this program is in no folder")?
                .to_owned()
        }
    };
    let services = plan.replicas.iter().map(|(service, _)| *service);
    let mesh: &[&str] = match sidecar {
        Sidecar::None => &[],
        Sidecar::Embedded => &["meshd", "sidecar"],
        Sidecar::Linkerd(_) => &["meshd"],
    };
    let missing: Vec<String> = services
        .chain(mesh.iter().copied())
        .map(name)
        .filter(|name| !folder.join(name).is_file())
        .collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    Err(Failure::new(
        Exit::Failed,
        format!("{} has no {}", folder.display(), missing.join(", ")),
    )
    .hint("Build them with `cargo build --workspace --bins`, or say where they are with --bin-dir.")
    .into())
}

/// The path of Linkerd's proxy.
pub(super) fn proxy(given: &Path) -> anyhow::Result<PathBuf> {
    let found = given.canonicalize().ok().filter(|path| path.is_file());
    let missing = || {
        Failure::new(Exit::Failed, format!("there is no {}", given.display()))
            .hint("Name the binary of linkerd2-proxy: --sidecar linkerd:/path/to/linkerd2-proxy.")
    };
    Ok(found.ok_or_else(missing)?)
}

/// The file of a binary.
pub(super) fn name(service: &str) -> String {
    format!("{service}{}", std::env::consts::EXE_SUFFIX)
}
