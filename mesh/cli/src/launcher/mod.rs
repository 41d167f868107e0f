//! Starts a system and keeps it running: every service as its own process, ended with the launcher.

pub(crate) mod catalogue;
pub(crate) mod plan;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod ready;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::failure::{Exit, Failure};
use crate::launcher::plan::{Instance, Plan};
use crate::launcher::ports::Ports;
use crate::launcher::process::{Event, Levers};
use crate::launcher::progress::Progress;
use crate::system::{Lock, Process, System};

/// The longest that an orderly end takes before what still runs is killed.
const DRAIN: Duration = Duration::from_secs(9);
/// How long the gateway may take to finish the requests that it has, before the services behind it are asked to end.
const GATEWAY_DRAIN: Duration = Duration::from_secs(3);

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
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    tasks: TaskTracker,
    _lock: Lock,
}

impl Running {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(
        options: &Options,
        progress: &mut Progress,
    ) -> anyhow::Result<Running> {
        let plan = Plan::new(&options.only, &options.replicas, options.postgres.is_some())?;
        let binaries = binaries(options.bin_dir.as_deref(), &plan)?;
        let lock = Lock::take(&options.data_dir)?;
        let data_dir = options
            .data_dir
            .canonicalize()
            .context("cannot resolve the data folder")?;
        std::fs::create_dir_all(data_dir.join("logs"))
            .context("cannot make the folder of the logs")?;
        let ports = Ports::choose(&data_dir, options.port, &plan)?;
        let databases = match &options.postgres {
            Some(url) => Some(postgres::databases(url, &options.database_prefix, &plan).await?),
            None => None,
        };
        let instances = plan.instances(&data_dir, &ports, databases.as_ref());
        let system = describe(&data_dir, &ports, &instances, options.postgres.is_some());
        let (sender, events) = mpsc::unbounded_channel();
        let tasks = TaskTracker::new();
        let mut levers = Vec::new();
        let log_lengths: Vec<u64> = instances
            .iter()
            .map(|instance| length(&instance.log))
            .collect();
        for (index, instance) in instances.iter().enumerate() {
            let own = Levers::new();
            levers.push(own.clone());
            let binary = binaries.join(binary_name(instance.service));
            tasks.spawn(process::supervise(
                index,
                instance.clone(),
                binary,
                own,
                sender.clone(),
            ));
        }
        tasks.close();
        let start_time = Duration::ZERO;
        let mut running = Running {
            system,
            start_time,
            instances,
            levers,
            events,
            tasks,
            _lock: lock,
        };
        progress.begin(
            running
                .instances
                .iter()
                .map(|instance| instance.label.as_str()),
        );
        let begun = Instant::now();
        match running
            .until_ready(options.start_timeout, &log_lengths, progress)
            .await
        {
            Ok(()) => {
                running.start_time = begun.elapsed();
                running.system.write()?;
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

    async fn until_ready(
        &mut self,
        timeout: Duration,
        log_lengths: &[u64],
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let mut waiting: Vec<bool> = self.instances.iter().map(|_| true).collect();
        let deadline = tokio::time::Instant::now() + timeout;
        let mut interrupt = std::pin::pin!(interrupted());
        while waiting.contains(&true) {
            let next = tokio::select! {
                next = tokio::time::timeout_at(deadline, self.events.recv()) => next,
                () = &mut interrupt => return Err(Failure::new(Exit::Failed, "interrupted before the system was ready").into()),
            };
            let Ok(next) = next else {
                return Err(self.too_slow(timeout, &waiting, log_lengths));
            };
            let Some((index, event)) = next else { break };
            let label = &self.instances[index].label;
            match event {
                Event::Started { pid } => self.system.processes[index].pid = pid,
                Event::Ready { after } => {
                    waiting[index] = false;
                    progress.ready(index, label, after);
                }
                Event::Crashed { status, again_in } => {
                    progress.say(&format!(
                        "{label} ended with {status}; starting it again in {:.1} s",
                        again_in.as_secs_f64()
                    ));
                }
                Event::Hopeless { reason } => {
                    return Err(self.hopeless(index, &reason, log_lengths[index]));
                }
                Event::Ended => {}
            }
        }
        Ok(())
    }

    fn labels(&self, waiting: &[bool]) -> Vec<&str> {
        self.instances
            .iter()
            .zip(waiting)
            .filter(|(_, waiting)| **waiting)
            .map(|(instance, _)| instance.label.as_str())
            .collect()
    }

    fn too_slow(&self, timeout: Duration, waiting: &[bool], log_lengths: &[u64]) -> anyhow::Error {
        let slow = self.labels(waiting).join(", ");
        let mut message = format!("not ready after {} s: {slow}", timeout.as_secs());
        let logs = self.instances.iter().zip(log_lengths).zip(waiting);
        for ((instance, start), _) in logs.filter(|(_, waiting)| **waiting) {
            for line in last_lines(&instance.log, *start, 2) {
                message.push_str(&format!("\n  {} | {line}", instance.label));
            }
        }
        let logs = self.system.data_dir.join("logs");
        Failure::new(Exit::Failed, message)
            .hint(format!(
                "Their logs are in {}. A slow machine may need --start-timeout.",
                logs.display()
            ))
            .into()
    }

    fn hopeless(&self, index: usize, reason: &str, log_start: u64) -> anyhow::Error {
        let instance = &self.instances[index];
        let mut message = format!("{} did not start: {reason}", instance.label);
        for line in last_lines(&instance.log, log_start, 8) {
            message.push_str("\n  | ");
            message.push_str(&line);
        }
        Failure::new(Exit::Failed, message)
            .hint(format!("Its whole log: {}", instance.log.display()))
            .into()
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

    /// What it takes to kill the processes of a service.
    pub(crate) fn levers(&self, service: &str) -> Vec<Levers> {
        let of_service = |(instance, levers): (&Instance, &Levers)| {
            (instance.service == service).then(|| levers.clone())
        };
        self.instances
            .iter()
            .zip(&self.levers)
            .filter_map(of_service)
            .collect()
    }

    /// Ends everything: the gateway first, then the services; what is left after 9 s, or when `hurry` resolves, is killed.
    pub(crate) async fn stop(self, progress: &mut Progress, hurry: impl Future<Output = ()>) {
        let mut hurry = std::pin::pin!(hurry);
        let all = self.instances.iter().zip(&self.levers);
        let deadline = tokio::time::Instant::now() + DRAIN;
        let gateway: Vec<&Levers> = all
            .filter(|(instance, _)| instance.service == "gateway")
            .map(|(_, levers)| levers)
            .collect();
        for levers in &gateway {
            levers.drain.cancel();
        }
        let mut events = self.events;
        let mut alive: Vec<bool> = self.instances.iter().map(|_| true).collect();
        let gateway_deadline = if gateway.is_empty() {
            tokio::time::Instant::now()
        } else {
            tokio::time::Instant::now() + GATEWAY_DRAIN
        };
        let mut all_asked = false;
        let is_gateway = |index: usize| self.instances[index].service == "gateway";
        loop {
            let gateway_gone = (0..alive.len()).all(|index| !alive[index] || !is_gateway(index));
            if !all_asked && (gateway_gone || tokio::time::Instant::now() >= gateway_deadline) {
                all_asked = true;
                self.levers.iter().for_each(|levers| levers.drain.cancel());
            }
            tokio::select! {
                // Everybody's end is told before all are gone.
                biased;
                next = events.recv() => match next {
                    Some((index, Event::Ended)) => {
                        alive[index] = false;
                        progress.ended(&self.instances[index].label);
                    }
                    Some(_) => {}
                    None => break,
                },
                () = tokio::time::sleep_until(gateway_deadline), if !all_asked => {}
                () = self.tasks.wait() => break,
                () = tokio::time::sleep_until(deadline) => break,
                () = &mut hurry => break,
            }
        }
        for (instance, (levers, alive)) in self.instances.iter().zip(self.levers.iter().zip(alive))
        {
            if alive && !self.tasks.is_empty() {
                progress.say(&format!("{} is killed", instance.label));
            }
            levers.kill.cancel();
        }
        self.tasks.wait().await;
        System::forget(&self.system.data_dir);
    }
}

/// Resolves when the user asks this process to end: Ctrl-C, or a SIGTERM.
pub(crate) async fn interrupted() {
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

fn describe(data_dir: &Path, ports: &Ports, instances: &[Instance], postgres: bool) -> System {
    let processes = instances
        .iter()
        .map(|instance| Process {
            service: instance.service.to_owned(),
            replica: instance.replica,
            url: format!("http://{}", instance.listen),
            admin: format!("http://{}", instance.admin),
            pid: None,
            log: instance.log.clone(),
        })
        .collect();
    System {
        launcher_pid: std::process::id(),
        data_dir: data_dir.to_owned(),
        gateway: format!("http://{}", ports.listen("gateway", 0)),
        postgres,
        processes,
    }
}

/// The folder of the services' binaries, checked.
fn binaries(given: Option<&Path>, plan: &Plan) -> anyhow::Result<PathBuf> {
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => {
            let own = std::env::current_exe().context("cannot find out where this program is")?;
            own.parent()
                .context("this program is in no folder")?
                .to_owned()
        }
    };
    let missing: Vec<String> = plan
        .replicas
        .iter()
        .map(|(service, _)| binary_name(service))
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

fn binary_name(service: &str) -> String {
    format!("{service}{}", std::env::consts::EXE_SUFFIX)
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The last lines that were written to a log after `start`.
fn last_lines(path: &Path, start: u64, count: usize) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let new = usize::try_from(start)
        .ok()
        .and_then(|start| bytes.get(start..))
        .unwrap_or_default();
    let text = String::from_utf8_lossy(new);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}
