//! Starts a system and keeps it running: every service as its own process, ended with the launcher.

pub(crate) mod addresses;
mod balancer;
mod binaries;
pub(crate) mod catalogue;
mod ending;
pub(crate) mod mesh;
pub(crate) mod namespace;
pub(crate) mod plan;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod ready;
mod starting;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::launcher::addresses::{Addresses, Claim};
use crate::launcher::mesh::{Layout, Sidecar};
use crate::launcher::plan::{Instance, Place, Plan};
use crate::launcher::process::{Event, Levers};
use crate::launcher::progress::Progress;
use crate::system::{Lock, Mesh, Process, Role, System};

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where the data lives.
    pub(crate) data_dir: PathBuf,
    /// Where the binaries are; next to this one when unset.
    pub(crate) bin_dir: Option<PathBuf>,
    /// Port of the gateway; 0 for any.
    pub(crate) port: u16,
    /// A PostgreSQL server to keep the data in.
    pub(crate) postgres: Option<String>,
    /// What the databases' names begin with.
    pub(crate) database_prefix: String,
    /// Only these services; empty for all.
    pub(crate) only: Vec<String>,
    /// Replicas by service.
    pub(crate) replicas: Vec<(String, u32)>,
    /// What stands between the processes.
    pub(crate) sidecar: Sidecar,
    /// A folder of policy files to use in place of the data folder's own.
    pub(crate) policy_dir: Option<PathBuf>,
    /// How long certificates of the mesh are valid; the control plane's own default when unset.
    pub(crate) certificate_lifetime: Option<&'static str>,
    /// The longest wait until everything is ready.
    pub(crate) start_timeout: Duration,
}

/// A system that this process runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// How it is described to other commands.
    pub(crate) system: System,
    /// Time from the first process to the last one ready.
    pub(crate) start_time: Duration,
    instances: Vec<Instance>,
    levers: Vec<Levers>,
    /// Whether each was started at all: a start that fails stops early.
    begun: Vec<bool>,
    /// Where each one's log ended before this start.
    log_lengths: Vec<u64>,
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    tasks: TaskTracker,
    /// What ends the balancer, where there is one.
    balancer: Levers,
    _claim: Claim,
    _lock: Lock,
}

impl Running {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(
        options: &Options,
        progress: &mut Progress,
    ) -> anyhow::Result<Running> {
        let plan = Plan::new(&options.only, &options.replicas, options.postgres.is_some())?;
        let has_mesh = options.sidecar != Sidecar::None;
        let proxy = match &options.sidecar {
            Sidecar::Linkerd(path) => Some(binaries::proxy(path)?),
            _ => None,
        };
        let binaries = binaries::folder(options.bin_dir.as_deref(), &plan, &options.sidecar)?;
        let lock = Lock::take(&options.data_dir)?;
        let data_dir = options
            .data_dir
            .canonicalize()
            .context("cannot resolve the data folder")?;
        std::fs::create_dir_all(data_dir.join("logs"))
            .context("cannot make the folder of the logs")?;
        let layout = |addresses: &Addresses, policy_dir: PathBuf| {
            has_mesh.then(|| Layout {
                policy_dir,
                consul: addresses.consul(options.port),
                certificate_lifetime: options.certificate_lifetime,
                proxy: proxy.clone(),
            })
        };
        let own_network = proxy.is_some();
        if own_network {
            namespace::prepare(Addresses::of_own_network()).await?;
        }
        let port = namespace::port(options.port);
        let (addresses, claim) = Addresses::choose(&data_dir, port, own_network, |addresses| {
            let layout = layout(addresses, PathBuf::new());
            plan.listens(Place {
                data_dir: &data_dir,
                addresses,
                postgres: None,
                mesh: layout.as_ref(),
            })
        })?;
        let databases = match &options.postgres {
            Some(url) => Some(postgres::databases(url, &options.database_prefix, &plan).await?),
            None => None,
        };
        let workloads = plan.workloads(&addresses);
        let policy_dir = match has_mesh {
            true => {
                let given = options.policy_dir.as_deref();
                mesh::prepare(&data_dir, &workloads, given, own_network)?
            }
            false => PathBuf::new(),
        };
        let layout = layout(&addresses, policy_dir);
        let place = Place {
            data_dir: &data_dir,
            addresses: &addresses,
            postgres: databases.as_ref(),
            mesh: layout.as_ref(),
        };
        let instances = plan.instances(place);
        let public = match plan.gateways() > 1 {
            true => Some(balancer::bind(addresses.public()).await?),
            false => None,
        };
        let (sender, events) = mpsc::unbounded_channel();
        let mut running = Running {
            system: describe(place, &instances),
            start_time: Duration::ZERO,
            levers: instances.iter().map(|_| Levers::new()).collect(),
            begun: vec![false; instances.len()],
            log_lengths: instances.iter().map(|one| length(&one.log)).collect(),
            instances,
            events,
            tasks: TaskTracker::new(),
            balancer: Levers::new(),
            _claim: claim,
            _lock: lock,
        };
        progress.begin(running.instances.iter().map(|one| one.label.as_str()));
        let begun = Instant::now();
        let started = running.begin(&binaries, sender.clone(), options.start_timeout, progress);
        match started.await {
            Ok(()) => {
                running.start_time = begun.elapsed();
                running.system.write()?;
                if let Some(public) = public {
                    running.balance(public, sender);
                }
                if own_network {
                    namespace::take_public(addresses.public())?;
                }
                Ok(running)
            }
            Err(error) => {
                progress.clear();
                running
                    .stop(&mut Progress::Quiet, std::future::pending())
                    .await;
                Err(error)
            }
        }
    }

    /// Follows the system until an event that is worth a line; keeps `system.json` up to date.
    pub(crate) async fn next_line(&mut self) -> String {
        loop {
            let Some((index, event)) = self.events.recv().await else {
                return std::future::pending().await;
            };
            let instance = &self.instances[index];
            let label = instance.label.clone();
            let line = match event {
                Event::Started { pid } => {
                    self.system.processes[index].pid = pid;
                    None
                }
                Event::Ready { after } => Some(format!(
                    "{label} is ready again after {:.1} s",
                    after.as_secs_f64()
                )),
                Event::Crashed { status, again_in } => {
                    self.system.processes[index].pid = None;
                    let log = instance.log.display();
                    Some(format!(
                        "{label} ended ({status}); starting it again in {:.1} s. Its log: {log}",
                        again_in.as_secs_f64()
                    ))
                }
                Event::Hopeless { reason } => Some(format!("{label} is gone for good: {reason}")),
                Event::Noted(text) => Some(text),
                Event::Ended => None,
            };
            if let Err(error) = self.system.write() {
                return format!("{error:#}");
            }
            if let Some(line) = line {
                return line;
            }
        }
    }

    /// What it takes to kill the processes of a service, or the control plane.
    pub(crate) fn levers(&self, service: &str) -> Vec<Levers> {
        let of_service = |(instance, levers): (&Instance, &Levers)| {
            let mine = instance.role != Role::Sidecar && instance.service == service;
            mine.then(|| levers.clone())
        };
        self.instances
            .iter()
            .zip(&self.levers)
            .filter_map(of_service)
            .collect()
    }
}

/// Resolves when the user asks this process to end: Ctrl-C, a SIGTERM, or the launcher around this one.
pub(crate) async fn interrupted() {
    tokio::select! {
        () = signalled() => {}
        () = namespace::asked_to_end() => {}
    }
}

async fn signalled() {
    #[cfg(unix)]
    {
        let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminated) = terminated {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    // Without a way to hear of it there is nothing to wait for but the process's own end.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn describe(place: Place<'_>, instances: &[Instance]) -> System {
    let url = |address: std::net::SocketAddr| format!("http://{address}");
    let processes = instances
        .iter()
        .map(|instance| Process {
            role: instance.role,
            label: instance.label.clone(),
            service: instance.service.to_owned(),
            replica: instance.replica,
            url: url(instance.listen),
            admin: url(instance.admin),
            pid: None,
            log: instance.log.clone(),
        })
        .collect();
    System {
        launcher_pid: std::process::id(),
        data_dir: place.data_dir.to_owned(),
        gateway: url(place.addresses.public()),
        postgres: place.postgres.is_some(),
        processes,
        mesh: place.mesh.map(|mesh| Mesh {
            control: url(place.addresses.control()),
            consul: url(mesh.consul),
            outbound: place.addresses.operator().outbound,
            policy_dir: mesh.policy_dir.clone(),
            own_network: mesh.proxy.is_some(),
        }),
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
