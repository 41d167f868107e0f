//! Workloads: what the launcher recorded of each pod before it started it.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;
use crate::policy::{Key, identity_of};

/// Largest record.
const MAX_BYTES: u64 = 64 * 1024;
/// Most records that are looked at.
const MAX_WORKLOADS: usize = 4096;

/// The record of a pod: `<data-dir>/mesh/workloads/<pod>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name, which is the file's too.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account: with the namespace, its identity.
    pub service_account: String,
    /// Its labels, which Services and Servers select by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub ip: IpAddr,
    /// Its ports by the names that Services and Servers use.
    #[serde(default)]
    pub ports: BTreeMap<String, u16>,
    /// Where its sidecar takes connections of the mesh; 0 without a sidecar.
    #[serde(default)]
    pub inbound_port: u16,
    /// SHA-256 of the secret part of its token, in hexadecimal.
    pub token_sha256: String,
}

impl Workload {
    /// Its service account's name.
    pub fn account(&self) -> Key {
        Key::new(&self.namespace, &self.service_account)
    }

    /// Its identity.
    pub fn identity(&self) -> String {
        identity_of(&self.account())
    }
}

/// The folder of records.
#[derive(Clone, Debug)]
pub struct Workloads {
    folder: PathBuf,
}

impl Workloads {
    /// The records in this folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The record of a pod, as it is now.
    ///
    /// # Errors
    /// If there is one that cannot be read or does not say what it must.
    pub fn get(&self, pod: &str) -> io::Result<Option<Workload>> {
        // The name comes from outside: nothing but a name may become part of a path.
        if !is_pod_name(pod) {
            return Ok(None);
        }
        let Some(text) = files::read(&self.folder.join(format!("{pod}.json")), MAX_BYTES)? else {
            return Ok(None);
        };
        let workload: Workload = serde_json::from_str(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if workload.pod == pod {
            return Ok(Some(workload));
        }
        let message = format!("names the pod `{}`", workload.pod);
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }

    /// Every record, by pod. What cannot be read is left out and said in the log.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn all(&self) -> io::Result<BTreeMap<String, Workload>> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Some(pod) = path.file_stem().and_then(|stem| stem.to_str()) else {
                continue;
            };
            if all.len() == MAX_WORKLOADS {
                tracing::error!(limit = MAX_WORKLOADS, "more workloads than are looked at");
                break;
            }
            match self.get(pod) {
                Ok(Some(workload)) => {
                    all.insert(pod.to_owned(), workload);
                }
                Ok(None) => {}
                Err(error) => tracing::error!(pod, %error, "a workload's record cannot be read"),
            }
        }
        Ok(all)
    }
}

/// Whether `text` is a name of a pod: 1 to 63 characters of [a-z0-9-].
pub(crate) fn is_pod_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
