//! The running system as its data folder describes it: `system.json`, written by `sagamesh up` and read by every other
//! command; and the lock that keeps two launchers from one folder.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// What `system.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct System {
    /// The launcher's process id.
    pub(crate) launcher_pid: u32,
    /// Its data folder, absolute.
    pub(crate) data_dir: PathBuf,
    /// The public address of the gateway, as a URL.
    pub(crate) gateway: String,
    /// Whether its data lives in PostgreSQL.
    pub(crate) postgres: bool,
    /// Every process that it runs.
    pub(crate) processes: Vec<Process>,
    /// The mesh that its services talk through; none when they talk directly.
    pub(crate) mesh: Option<Mesh>,
}

/// The mesh of a system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mesh {
    /// Where the control plane serves, as a URL.
    pub(crate) control: String,
    /// Where the control plane serves Consul's API, as a URL.
    pub(crate) consul: String,
    /// Where the operator's sidecar takes requests: `host:port`. Commands reach services through it.
    pub(crate) outbound: SocketAddr,
    /// The folder of the policy files.
    pub(crate) policy_dir: PathBuf,
    /// Whether all of it is in a network of its own, which commands join.
    pub(crate) own_network: bool,
}

/// What a process is in the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The mesh's control plane.
    Control,
    /// The sidecar of a service's process.
    Sidecar,
    /// A service.
    Service,
}

/// One process of the system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// What it is.
    pub(crate) role: Role,
    /// Name to show.
    pub(crate) label: String,
    /// Name of the service; of a sidecar, that of the service beside it.
    pub(crate) service: String,
    /// Which replica, from 0.
    pub(crate) replica: u32,
    /// Where it serves, as a URL.
    pub(crate) url: String,
    /// Where its /live, /ready and /metrics are, as a URL.
    pub(crate) admin: String,
    /// Its process id; none while it is being started again.
    pub(crate) pid: Option<u32>,
    /// Its log file.
    pub(crate) log: PathBuf,
}

impl System {
    /// Reads the system that runs from this data folder.
    pub(crate) fn find(data_dir: &Path) -> anyhow::Result<System> {
        let not_running = || {
            Failure::new(
                Exit::NotRunning,
                format!(
                    "no system is running from the data folder {}",
                    data_dir.display()
                ),
            )
            .hint("Start one with `sagamesh up`, or name its folder with --data-dir.")
        };
        let path = data_dir.join("system.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(not_running().into());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        if !Lock::is_held(data_dir) {
            return Err(not_running().into());
        }
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `sagamesh up` writes", path.display()))
    }

    /// Writes `system.json`, whole or not at all.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let path = self.data_dir.join("system.json");
        let next = self.data_dir.join("system.json.next");
        std::fs::write(&next, serde_json::to_string_pretty(self)? + "\n")
            .and_then(|()| std::fs::rename(&next, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes `system.json`.
    pub(crate) fn forget(data_dir: &Path) {
        // Nothing is lost when it stays: without the lock it counts as not running.
        let _ = std::fs::remove_file(data_dir.join("system.json"));
    }

    /// Its services' processes.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Process> {
        let mine = |process: &&Process| process.role == Role::Service;
        self.processes.iter().filter(mine)
    }

    /// Where the gateway is, said in words, when there are several of it.
    pub(crate) fn public_line(&self) -> Option<String> {
        let gateways = self.services().filter(|one| one.service == "gateway");
        let labels: Vec<_> = gateways.map(|one| one.label.as_str()).collect();
        (labels.len() > 1).then(|| {
            format!(
                "The public port is {}: each connection goes to one of {}.",
                self.gateway,
                labels.join(", ")
            )
        })
    }

    /// Where a service is asked: a name of the mesh where there is one, else the address of its first process.
    pub(crate) fn url(&self, service: &str) -> anyhow::Result<String> {
        let found = self.services().find(|process| process.service == service);
        match (found, &self.mesh) {
            (Some(_), Some(_)) => Ok(mesh_url(service)),
            (Some(process), None) => Ok(process.url.clone()),
            (None, _) => Err(Failure::new(
                Exit::NotRunning,
                format!("the system runs without {service}"),
            )
            .hint("It was started with --services; start it again with that service among them.")
            .into()),
        }
    }
}

/// The address of a service, or of one replica of it, in the mesh: the same as in a cluster.
pub(crate) fn mesh_url(name: &str) -> String {
    format!("http://{name}.sagamesh.svc.cluster.local:50051")
}

/// Holds a data folder. Let go of when it is dropped, and by the operating system when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the folder, which is made when it is not there.
    pub(crate) fn take(data_dir: &Path) -> anyhow::Result<Lock> {
        private_folder(data_dir)?;
        let path = data_dir.join("lock");
        let mut file = open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match patiently(&file) {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(Failure::new(
                    Exit::Refused,
                    format!(
                        "the data folder {} is in use by another sagamesh (process {})",
                        data_dir.display(),
                        holder.trim()
                    ),
                )
                .hint("Stop that one, or choose another folder with --data-dir.")
                .into());
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock { _file: file })
    }

    /// Whether a launcher holds the folder.
    fn is_held(data_dir: &Path) -> bool {
        let Ok(file) = open(&data_dir.join("lock")) else {
            return false;
        };
        matches!(
            file.try_lock_shared(),
            Err(std::fs::TryLockError::WouldBlock)
        )
    }
}

/// Makes a folder that only its owner can enter, since what it will hold are customers' data and a signing key. One that
/// is there and wider is narrowed when it is empty or a system's own; a folder of other things is left alone and refused.
pub(crate) fn private_folder(path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the folder {}", parent.display()))?;
    }
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {
            narrow(path)
        }
        answer => answer.with_context(|| format!("cannot make the folder {}", path.display())),
    }
}

#[cfg(unix)]
fn narrow(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let context = || format!("cannot look at the folder {}", path.display());
    let mode = std::fs::metadata(path)
        .with_context(context)?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let mut empty = true;
    let mut own = false;
    for entry in std::fs::read_dir(path).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        empty = false;
        own |= name == "lock" || Path::new(&name).extension() == Some("db".as_ref());
    }
    if !empty && !own {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "{} holds other things, and other users can enter it",
                path.display()
            ),
        )
        .hint("Name a folder of the system's own; it is made when it is not there.")
        .into());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot keep other users out of {}", path.display()))
}

#[cfg(not(unix))]
fn narrow(_path: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// Locks; a command that only looks whether the lock is held has it for a moment.
fn patiently(file: &File) -> Result<(), std::fs::TryLockError> {
    for _ in 0..5 {
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                std::thread::sleep(std::time::Duration::from_millis(40))
            }
            answer => return answer,
        }
    }
    file.try_lock()
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_launchers_do_not_share_a_folder() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let first = Lock::take(folder.path())?;
        let second = Lock::take(folder.path());
        let message = second
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(message.contains("in use by another sagamesh"), "{message}");
        drop(first);
        Lock::take(folder.path())?;
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn other_users_cannot_enter_a_data_folder() -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;

        let mode = |path: &Path| -> anyhow::Result<u32> {
            Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
        };
        let wide =
            |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755));
        let folder = tempfile::tempdir()?;
        let made = folder.path().join("above/data");
        drop(Lock::take(&made)?);
        assert_eq!(mode(&made)?, 0o700, "a new one");
        wide(&made)?;
        drop(Lock::take(&made)?);
        assert_eq!(mode(&made)?, 0o700, "a system's own that was wider");
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty)?;
        wide(&empty)?;
        drop(Lock::take(&empty)?);
        assert_eq!(mode(&empty)?, 0o700, "an empty one");
        let other = folder.path().join("other");
        std::fs::create_dir(&other)?;
        std::fs::write(other.join("notes.txt"), "mine")?;
        wide(&other)?;
        let refused = Lock::take(&other).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|message| message.contains("holds other things")));
        assert_eq!(mode(&other)?, 0o755, "left alone");
        Ok(())
    }

    #[test]
    fn a_system_that_died_is_not_running() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let system = System {
            launcher_pid: 1,
            data_dir: folder.path().to_owned(),
            gateway: "http://127.0.0.1:8080".into(),
            postgres: false,
            processes: vec![],
            mesh: None,
        };
        system.write()?;
        assert!(System::find(folder.path()).is_err());
        let lock = Lock::take(folder.path())?;
        assert_eq!(
            System::find(folder.path())?.gateway,
            "http://127.0.0.1:8080"
        );
        drop(lock);
        Ok(())
    }
}
