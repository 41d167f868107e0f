//! The policy files that come with this program: the same that a cluster applies.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A file of `mesh/policy`, by its name.
macro_rules! file {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../policy/", $name)))
    };
}

/// All of them.
const FILES: [(&str, &str); 10] = [
    file!("admin.yaml"),
    file!("coordinator.yaml"),
    file!("gateway.yaml"),
    file!("inventory.yaml"),
    file!("kustomization.yaml"),
    file!("notifications.yaml"),
    file!("operator.yaml"),
    file!("orders.yaml"),
    file!("payments.yaml"),
    file!("service-accounts.yaml"),
];

/// Writes them into a folder that is not there yet; one that is there is its user's, and left as it is.
pub(super) fn unpack(folder: &Path) -> anyhow::Result<PathBuf> {
    if folder.is_dir() {
        return Ok(folder.to_owned());
    }
    // Beside, and then renamed: a folder that is there is complete.
    let beside = folder.with_extension("next");
    std::fs::create_dir_all(&beside)
        .with_context(|| format!("cannot make the folder {}", beside.display()))?;
    for (name, text) in FILES {
        let path = beside.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::fs::rename(&beside, folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_file_is_on_board() -> anyhow::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy");
        let mut there = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            there.push(entry?.file_name().into_string().unwrap_or_default());
        }
        there.retain(|name| name.ends_with(".yaml"));
        there.sort();
        assert_eq!(there, FILES.map(|(name, _)| name));
        Ok(())
    }
}
