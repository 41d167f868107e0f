//! Keeps the policy in force: reads the folder, takes up what is good, holds on to the last good state when it is not.
//!
//! The folder is read four times a second. That costs a dozen small reads from the page cache, needs nothing of the
//! operating system, and sees what watches of files miss: editors that rename, mounts that do not notify, links that move.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chassis::Env;

use crate::cluster_ip::{self, ClusterIps};
use crate::files;
use crate::policy::{self, Fault, Key, Policy, Source};
use crate::workload::Workloads;
use crate::world::Mesh;

/// How often the folders are read.
pub const INTERVAL: Duration = Duration::from_millis(250);

const MAX_FILES: usize = 256;
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// For `kubectl apply -k`; not policy.
const KUSTOMIZATION: &str = "kustomization.yaml";

/// Which policy is in force, and what is wrong with the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// When the policy in force was taken up, in Unix milliseconds.
    pub loaded_at: i64,
    /// Counts the policies taken up, from 1.
    pub generation: u64,
    /// The files of the policy in force.
    pub files: Vec<String>,
    /// What is wrong with the files as they are now.
    pub faults: Vec<Fault>,
    /// When they were refused, in Unix milliseconds.
    pub refused_at: i64,
}

/// Keeps the policy.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    data: PathBuf,
    mesh: Mesh,
    env: Env,
    workloads: Workloads,
    status: Arc<Mutex<Status>>,
    /// What was read last, taken up or refused.
    seen: Result<Vec<Source>, String>,
    /// What was read before that: files that are being written are not judged.
    unsettled: Option<Result<Vec<Source>, String>>,
}

/// Reads the status of a [`Keeper`]. A clone is the same one.
#[derive(Clone, Debug)]
pub struct StatusReader {
    /// The folder of policy files.
    pub folder: PathBuf,
    status: Arc<Mutex<Status>>,
}

impl StatusReader {
    /// The status now.
    pub fn now(&self) -> Status {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Keeper {
    /// Takes up the policy of `folder`; if it is not good, the last good one recorded in `data`.
    ///
    /// # Errors
    /// If neither can be read.
    pub fn start(folder: PathBuf, data: PathBuf, mesh: Mesh, env: Env) -> anyhow::Result<Self> {
        let workloads = Workloads::in_folder(data.join("workloads"));
        let seen = sources(&folder);
        let mut keeper = Self {
            folder,
            data,
            mesh,
            env,
            workloads,
            status: Arc::default(),
            seen: seen.clone(),
            unsettled: None,
        };
        keeper.refresh_workloads();
        let faults = match keeper.judge(&seen) {
            Ok((policy, sources)) => {
                keeper.take_up(policy, &sources)?;
                return Ok(keeper);
            }
            Err(faults) => faults,
        };
        let Some(last) = keeper.last_good()? else {
            let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::bail!(
                "the policy in {} cannot be taken up:\n  {}",
                keeper.folder.display(),
                all.join("\n  ")
            );
        };
        let policy = policy::read(&last).map_err(|faults| {
            let first = faults.first().map(ToString::to_string).unwrap_or_default();
            anyhow::anyhow!("the last good policy on record is not understood any more: {first}")
        })?;
        keeper.take_up(policy, &last)?;
        keeper.refuse(faults);
        Ok(keeper)
    }

    /// For those who ask.
    pub fn status(&self) -> StatusReader {
        StatusReader {
            folder: self.folder.clone(),
            status: Arc::clone(&self.status),
        }
    }

    /// Keeps on, until `stop`.
    pub async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let looked = tokio::task::spawn_blocking(move || {
                // A mistake of this program's ends one look, not all of them: edits of the policy would then wait for a
                // restart that nobody knows is needed.
                if catch_unwind(AssertUnwindSafe(|| self.look())).is_err() {
                    self.refuse(vec![self.unjudged()]);
                    // Not what any look sees: the files are judged again, and taken up if that goes well.
                    self.seen = Err("the last look was cut short".to_owned());
                }
                self
            });
            match looked.await {
                Ok(keeper) => self = keeper,
                Err(error) => {
                    tracing::error!(%error, "the policy folder is not looked at any more");
                    return;
                }
            }
        }
    }

    /// Looks at the folders once.
    pub fn look(&mut self) {
        self.refresh_workloads();
        let read = sources(&self.folder);
        if read == self.seen {
            self.unsettled = None;
            return;
        }
        // Judged when two looks agree: a file that is being written would be refused for nothing.
        if self.unsettled.as_ref() != Some(&read) {
            self.unsettled = Some(read);
            return;
        }
        self.unsettled = None;
        self.seen = read.clone();
        match self.judge(&read) {
            Ok((policy, sources)) => {
                if let Err(error) = self.take_up(policy, &sources) {
                    let message = format!("cannot be recorded: {error:#}");
                    self.refuse(vec![Fault::of_file(self.folder.to_string_lossy(), message)]);
                }
            }
            Err(faults) => self.refuse(faults),
        }
    }

    fn refresh_workloads(&self) {
        match self.workloads.all() {
            Ok(all) => self.mesh.change(|world| {
                let changed = *world.workloads != all;
                if changed {
                    world.workloads = Arc::new(all);
                }
                changed
            }),
            Err(error) => tracing::error!(%error, "the workloads' folder cannot be read"),
        }
    }

    fn judge(
        &self,
        read: &Result<Vec<Source>, String>,
    ) -> Result<(Policy, Vec<Source>), Vec<Fault>> {
        let of_folder =
            |message: &str| vec![Fault::of_file(self.folder.to_string_lossy(), message)];
        let sources = read.as_ref().map_err(|message| of_folder(message))?;
        if sources.is_empty() {
            return Err(of_folder(
                "has no .yaml file: without policy everything would be refused",
            ));
        }
        // At a start, too, a policy on which this program fails must not be in the way of the last good one.
        let policy = catch_unwind(AssertUnwindSafe(|| policy::read(sources)))
            .unwrap_or_else(|_| Err(vec![self.unjudged()]))?;
        Ok((policy, sources.clone()))
    }

    fn unjudged(&self) -> Fault {
        let message =
            "cannot be judged, by a mistake of meshd's: what failed is on its standard error";
        Fault::of_file(self.folder.to_string_lossy(), message)
    }

    fn take_up(&mut self, policy: Policy, sources: &[Source]) -> anyhow::Result<()> {
        let known = self.recorded_ips()?;
        let assigned = cluster_ip::assign(&known, policy.services.keys());
        if assigned != known {
            let text = serde_json::to_string_pretty(
                &assigned
                    .iter()
                    .map(|(key, ip)| (key.to_string(), *ip))
                    .collect::<std::collections::BTreeMap<_, _>>(),
            )?;
            files::write(&self.data.join("cluster-ips.json"), &text, false)
                .context("cannot record the Services' addresses")?;
        }
        let text = serde_json::to_string(sources)?;
        files::write(&self.data.join("policy-last-good.json"), &text, false)
            .context("cannot record the policy")?;
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        *status = Status {
            loaded_at: self.env.clock.now_millis(),
            generation: status.generation + 1,
            files: sources.iter().map(|source| source.file.clone()).collect(),
            faults: Vec::new(),
            refused_at: 0,
        };
        tracing::info!(
            files = sources.len(),
            services = policy.services.len(),
            servers = policy.servers.len(),
            generation = status.generation,
            "policy taken up"
        );
        drop(status);
        metrics::counter!("mesh_policy_loads_total", "outcome" => "taken_up").increment(1);
        metrics::gauge!("mesh_policy_current").set(1.0);
        self.mesh.change(|world| {
            world.policy = Arc::new(policy);
            world.cluster_ips = Arc::new(assigned);
            true
        });
        Ok(())
    }

    fn refuse(&self, faults: Vec<Fault>) {
        for fault in &faults {
            tracing::error!(
                file = fault.file,
                line = fault.line,
                field = fault.field,
                "policy refused, the last good one stays in force: {fault}"
            );
        }
        metrics::counter!("mesh_policy_loads_total", "outcome" => "refused").increment(1);
        metrics::gauge!("mesh_policy_current").set(0.0);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.faults = faults;
        status.refused_at = self.env.clock.now_millis();
    }

    fn last_good(&self) -> anyhow::Result<Option<Vec<Source>>> {
        let path = self.data.join("policy-last-good.json");
        let limit = MAX_FILE_BYTES * 64;
        let text =
            files::read(&path, limit).with_context(|| format!("cannot read {}", path.display()))?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .with_context(|| format!("{} is damaged", path.display()))
    }

    fn recorded_ips(&self) -> anyhow::Result<ClusterIps> {
        let path = self.data.join("cluster-ips.json");
        let text = files::read(&path, MAX_FILE_BYTES)
            .with_context(|| format!("cannot read {}", path.display()))?
            .unwrap_or_else(|| "{}".to_owned());
        let recorded: std::collections::BTreeMap<String, std::net::Ipv4Addr> =
            serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} is damaged: remove it, and new addresses are given",
                    path.display()
                )
            })?;
        let keyed = recorded.into_iter().filter_map(|(name, ip)| {
            let (namespace, name) = name.split_once('/')?;
            Some((Key::new(namespace, name), ip))
        });
        Ok(keyed.collect())
    }
}

/// Every policy file of a folder, by name.
pub(crate) fn sources(folder: &Path) -> Result<Vec<Source>, String> {
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if yaml && !hidden && path.file_name().is_some_and(|name| name != KUSTOMIZATION) {
            paths.push(path);
        }
    }
    if paths.len() > MAX_FILES {
        return Err(format!("has more than {MAX_FILES} files"));
    }
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        // One that is gone by now is simply gone.
        if let Some(text) =
            files::read(&path, MAX_FILE_BYTES).map_err(|error| failed(&path, error))?
        {
            let name = path.file_name().unwrap_or_default();
            sources.push(Source {
                file: name.to_string_lossy().into_owned(),
                text,
            });
        }
    }
    Ok(sources)
}
