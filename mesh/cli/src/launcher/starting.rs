//! The start of a system: whoever others need begins earlier.

use std::path::Path;
use std::time::Duration;

use sagamesh_api::mesh::v1::registry_service_client::RegistryServiceClient;
use tokio::sync::mpsc;

use crate::connect;
use crate::failure::{Exit, Failure};
use crate::launcher::plan::Program;
use crate::launcher::process::{self, Event};
use crate::launcher::progress::Progress;
use crate::launcher::{Running, binaries, interrupted, mesh};
use crate::system::Role;

impl Running {
    /// Starts the control plane, then the sidecars, then the services: each finds what it needs.
    pub(super) async fn begin(
        &mut self,
        folder: &Path,
        sender: mpsc::UnboundedSender<(usize, Event)>,
        timeout: Duration,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + timeout;
        for role in [Role::Control, Role::Sidecar, Role::Service] {
            if role == Role::Sidecar && self.system.mesh.is_some() {
                let anchors = mesh::trust_anchors(&self.system.data_dir)?;
                let sidecars = self.instances.iter_mut().filter(|one| one.role == role);
                sidecars.for_each(|one| mesh::trust(one, &anchors));
            }
            for index in 0..self.instances.len() {
                let instance = &self.instances[index];
                if instance.role == role {
                    let binary = match &instance.program {
                        Program::Own(name) => folder.join(binaries::name(name)),
                        Program::Proxy(path) => path.clone(),
                    };
                    self.begun[index] = true;
                    self.tasks.spawn(process::supervise(
                        index,
                        instance.clone(),
                        binary,
                        self.levers[index].clone(),
                        sender.clone(),
                    ));
                }
            }
            if let (Role::Service, Some(mesh)) = (role, &self.system.mesh) {
                self.register(&mesh.control)?;
            }
            let mine = self.instances.iter().map(|one| one.role == role).collect();
            self.until_ready(mine, timeout, deadline, progress).await?;
        }
        Ok(())
    }

    /// Keeps every service's process in the mesh's registry while it is ready.
    fn register(&self, control: &str) -> anyhow::Result<()> {
        let registry = RegistryServiceClient::new(connect::channel(control));
        let processes = self.instances.iter().zip(&self.system.processes);
        for ((instance, process), levers) in processes.zip(&self.levers) {
            if instance.role == Role::Service {
                let is_public = process.url == self.system.gateway;
                let spec = mesh::registry::spec(instance, is_public);
                let token = mesh::bearer(&self.system.data_dir, &spec.instance_id)?;
                self.tasks.spawn(mesh::registry::follow(
                    registry.clone(),
                    spec,
                    token,
                    levers.ready.subscribe(),
                    levers.drain.clone(),
                ));
            }
        }
        Ok(())
    }

    async fn until_ready(
        &mut self,
        mut waiting: Vec<bool>,
        timeout: Duration,
        deadline: tokio::time::Instant,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let mut interrupt = std::pin::pin!(interrupted());
        while waiting.contains(&true) {
            let next = tokio::select! {
                next = tokio::time::timeout_at(deadline, self.events.recv()) => next,
                () = &mut interrupt => return Err(Failure::new(Exit::Failed, "interrupted before the system was ready").into()),
            };
            let Ok(next) = next else {
                return Err(self.too_slow(timeout, &waiting));
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
                    return Err(self.hopeless(index, &reason));
                }
                Event::Noted(text) => progress.say(&text),
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

    fn too_slow(&self, timeout: Duration, waiting: &[bool]) -> anyhow::Error {
        let slow = self.labels(waiting).join(", ");
        let mut message = format!("not ready after {} s: {slow}", timeout.as_secs());
        let logs = self.instances.iter().zip(&self.log_lengths).zip(waiting);
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

    fn hopeless(&self, index: usize, reason: &str) -> anyhow::Error {
        let instance = &self.instances[index];
        let mut message = format!("{} did not start: {reason}", instance.label);
        for line in last_lines(&instance.log, self.log_lengths[index], 8) {
            message.push_str("\n  | ");
            message.push_str(&line);
        }
        Failure::new(Exit::Failed, message)
            .hint(format!("Its whole log: {}", instance.log.display()))
            .into()
    }
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
