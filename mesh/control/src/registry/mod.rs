//! The registry: who is there, and how well.
//!
//! [`table`] decides and is pure; [`store`] keeps it on disk; [`checks`] looks after health; [`Registry`] puts them together.

pub mod checks;
pub mod spec;
pub mod store;
pub mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chassis::{Env, Tasks};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::{Healthy, Mesh};
use spec::{CheckKind, Health, InstanceSpec};
use table::{Denied, Entry, Refused, Table};

/// How often leases and reports are looked at.
const SWEEP: Duration = Duration::from_millis(250);
/// From when on a pause between two looks means that this process was stopped, or the machine overloaded.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// The registry of a mesh. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    /// The index of the newest change.
    index: watch::Sender<u64>,
    /// One writer at a time; holds the index that is on disk.
    written: AsyncMutex<u64>,
    path: PathBuf,
    /// What ends the checks of each instance, and of which generation they are. Locked after the table.
    running: Mutex<BTreeMap<String, (u64, CancellationToken)>>,
    mesh: Mesh,
    env: Env,
    tasks: Tasks,
}

impl Registry {
    /// Loads the registry of `path`, publishes it to `mesh` and goes on checking.
    ///
    /// # Errors
    /// If the file is there and cannot be read: what is known of running instances must not be lost silently.
    pub fn open(path: PathBuf, mesh: Mesh, env: Env, tasks: Tasks) -> anyhow::Result<Self> {
        let table = store::load(&path, Instant::now())?;
        let registry = Self(Arc::new(Inner {
            index: watch::Sender::new(table.index()),
            written: AsyncMutex::new(table.index()),
            table: Mutex::new(table),
            path,
            running: Mutex::default(),
            mesh,
            env,
            tasks,
        }));
        registry.publish();
        let all: Vec<String> = registry
            .table()
            .entries()
            .map(|(id, _)| id.clone())
            .collect();
        for id in all {
            registry.align_checks(&id);
        }
        let sweeping = registry.clone();
        registry
            .0
            .tasks
            .spawn_essential("registry", sweeping.sweep());
        Ok(registry)
    }

    /// Adds or replaces an instance; it is on disk when this returns.
    ///
    /// # Errors
    /// If the registry is full, or a pod would be replaced by something else.
    pub async fn register(&self, spec: InstanceSpec) -> Result<Entry, Refused> {
        let id = spec.id.clone();
        let now = self.0.env.clock.now_millis();
        let registered = self.table().register(spec, now, Instant::now())?;
        if registered.is_new {
            self.align_checks(&id);
            tracing::info!(
                instance = id,
                service = registered.entry.spec.service,
                "registered"
            );
        }
        self.changed().await;
        Ok(registered.entry)
    }

    /// Prolongs a lease, and notes what the instance says of itself. `caller` is the pod that asks, if it is one.
    ///
    /// # Errors
    /// If there is no such instance, it is not for `caller` to change, or a report is of no check of the kind TTL.
    pub async fn renew(
        &self,
        id: &str,
        caller: Option<&str>,
        load: Option<f64>,
        reports: &[(String, Health, String)],
    ) -> Result<Entry, Denied> {
        let renewed = self
            .table()
            .renew(id, caller, load, reports, Instant::now())?;
        self.changed().await;
        Ok(renewed)
    }

    /// Reports a check of the kind TTL, by its own id alone.
    ///
    /// # Errors
    /// If there is none, or it is a pod's.
    pub async fn report_by_check(
        &self,
        check: &str,
        health: Health,
        output: &str,
    ) -> Result<(), Denied> {
        self.table()
            .report_ttl(check, health, output, Instant::now())?;
        self.changed().await;
        Ok(())
    }

    /// Removes an instance; `caller` is the pod that asks, if it is one. Whether it was there.
    ///
    /// # Errors
    /// If it is not for `caller` to change.
    pub async fn deregister(&self, id: &str, caller: Option<&str>) -> Result<bool, Denied> {
        let removed = self.table().deregister(id, caller)?;
        if removed {
            self.align_checks(id);
            tracing::info!(instance = id, "deregistered");
        }
        self.changed().await;
        Ok(removed)
    }

    /// The instances that `wanted` is true of, by id, and the index of the newest change.
    pub fn list(&self, wanted: impl Fn(&Entry) -> bool) -> (Vec<Entry>, u64) {
        let table = self.table();
        let all = table
            .entries()
            .map(|(_, entry)| entry)
            .filter(|entry| wanted(entry))
            .cloned()
            .collect();
        (all, table.index())
    }

    /// Follows the index of the newest change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.index.subscribe()
    }

    /// What the result of a running check is reported to. Stale runs are ignored.
    pub(crate) async fn report(
        &self,
        id: &str,
        generation: u64,
        check: &str,
        health: Health,
        output: &str,
    ) {
        let before = {
            let mut table = self.table();
            let before = table.get(id).map(Entry::health);
            table.report(id, generation, check, health, output, Instant::now());
            let after = table.get(id).map(Entry::health);
            if before != after {
                tracing::info!(instance = id, check, ?health, output, "health changed");
            }
            before
        };
        if before.is_some() {
            self.changed().await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes and writes what is not yet.
    async fn changed(&self) {
        let index = self.table().index();
        if *self.0.index.borrow() != index {
            self.publish();
            self.0.index.send_if_modified(|known| {
                let newer = index > *known;
                *known = index.max(*known);
                newer
            });
        }
        let mut written = self.0.written.lock().await;
        let (snapshot, index) = {
            let table = self.table();
            if table.index() == *written {
                return;
            }
            (store::encode(&table), table.index())
        };
        let path = self.0.path.clone();
        let outcome = tokio::task::spawn_blocking(move || store::write(&path, &snapshot)).await;
        match outcome {
            Ok(Ok(())) => *written = index,
            Ok(Err(error)) => {
                metrics::counter!("mesh_registry_write_failures_total").increment(1);
                tracing::error!(%error, "the registry cannot be written: it would be lost with this process");
            }
            Err(error) => tracing::error!(%error, "the registry was not written"),
        }
    }

    /// Tells proxies who is healthy.
    fn publish(&self) {
        let healthy: BTreeMap<String, Healthy> = {
            let table = self.table();
            let mut counts = BTreeMap::from([("healthy", 0_u32), ("critical", 0)]);
            let mut healthy = BTreeMap::new();
            for (id, entry) in table.entries() {
                let well = entry.health() != Health::Critical;
                *counts
                    .entry(if well { "healthy" } else { "critical" })
                    .or_default() += 1;
                if let (true, Some(address)) = (well, entry.spec.socket_address()) {
                    let one = Healthy {
                        service: entry.spec.service.clone(),
                        address,
                        pod: entry.spec.pod.clone(),
                    };
                    healthy.insert(id.clone(), one);
                }
            }
            for (health, count) in counts {
                metrics::gauge!("mesh_registry_instances", "health" => health).set(count);
            }
            healthy
        };
        self.0.mesh.change(|world| {
            let changed = *world.healthy != healthy;
            if changed {
                world.healthy = Arc::new(healthy);
            }
            changed
        });
    }

    /// Makes the checks that run those of the instance as it is now, or none if it is gone.
    ///
    /// Whoever changed the table calls this afterwards, in whatever order they come: it goes by the table, not by what the
    /// caller did. So one that is late neither ends the checks of a newer registration nor starts those of an older one.
    fn align_checks(&self, id: &str) {
        let table = self.table();
        let mut running = self.running();
        let now = table.get(id);
        if now.map(|entry| entry.generation) == running.get(id).map(|(of, _)| *of) {
            return;
        }
        if let Some((_, stop)) = running.remove(id) {
            stop.cancel();
        }
        let Some(entry) = now else {
            return;
        };
        let stop = self.0.tasks.token().child_token();
        for check in &entry.spec.checks {
            if matches!(check.kind, CheckKind::Ttl { .. }) {
                continue;
            }
            let run = checks::run(
                self.clone(),
                self.0.env.clone(),
                entry.spec.clone(),
                entry.generation,
                check.clone(),
            );
            let stop = stop.clone();
            self.0.tasks.spawn("health check", async move {
                stop.run_until_cancelled(run).await;
            });
        }
        running.insert(id.to_owned(), (entry.generation, stop));
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, (u64, CancellationToken)>> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what has not been renewed.
    async fn sweep(self) {
        let stop = self.0.tasks.token();
        let mut last = Instant::now();
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let now = Instant::now();
            let gap = now.saturating_duration_since(last).saturating_sub(SWEEP);
            last = now;
            let expired = {
                let mut table = self.table();
                if gap >= STOOD_STILL {
                    tracing::warn!(
                        ?gap,
                        "this process stood still: leases are prolonged by that"
                    );
                    table.stood_still(gap);
                }
                table.expire(now)
            };
            for id in expired {
                self.align_checks(&id);
                metrics::counter!("mesh_registry_expired_total").increment(1);
                tracing::warn!(instance = id, "not renewed in time: removed");
            }
            self.changed().await;
        }
    }
}
