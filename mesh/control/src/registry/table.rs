//! The instances, and every way in which they change. Pure: the time is passed in.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::spec::{CheckKind, CheckSpec, Health, InstanceSpec, MAX_OUTPUT};

/// Most instances that are no pods.
pub const MAX_INSTANCES: usize = 4096;

/// Why an instance is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are too many.
    #[error(
        "the registry holds {MAX_INSTANCES} instances outside of the mesh, which is all it takes: deregister some"
    )]
    Full,
    /// It would take the place of an instance of the mesh.
    #[error(
        "an instance of this id is a pod of the mesh, and only the pod may replace it: choose another id"
    )]
    IsPod,
}

/// Why an instance is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is not there.
    #[error("there is no such instance, or not any more: register it again")]
    Unknown,
    /// It is this pod, and who asks is not.
    #[error("it is the pod {0} of the mesh, which only the pod itself may change")]
    OfPod(String),
    /// What was reported is not for others to say.
    #[error("the instance has no check `{check}` of the kind ttl, and reports are for those alone")]
    NotReported {
        /// Which of the reports.
        place: usize,
        /// The check that it names.
        check: String,
    },
}

/// An instance as the registry knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it said of itself.
    pub spec: InstanceSpec,
    /// Each check's last result.
    pub results: Vec<CheckResult>,
    /// Its load, as it last said.
    pub load: f64,
    /// When it was registered first, in Unix milliseconds.
    pub registered_at: i64,
    /// Counts its registrations with different content: what checks an older one is not listened to.
    pub generation: u64,
    /// The index of the change that made it so.
    pub modify_index: u64,
    /// The index of the change that added it.
    pub create_index: u64,
    renewed: Instant,
    reported: Vec<Instant>,
    /// Of each check.
    critical_since: Vec<Option<Instant>>,
}

/// A check's last result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// What it said.
    pub health: Health,
    /// In words.
    pub output: String,
}

impl Entry {
    /// The worst of its checks.
    pub fn health(&self) -> Health {
        self.results
            .iter()
            .map(|result| result.health)
            .max()
            .unwrap_or(Health::Passing)
    }

    /// A pod is changed by itself alone; `caller` is the pod that asks, if it is one.
    fn allow(&self, caller: Option<&str>) -> Result<(), Denied> {
        match &self.spec.pod {
            Some(pod) if caller != Some(pod) => Err(Denied::OfPod(pod.clone())),
            _ => Ok(()),
        }
    }

    fn has_ttl(&self, check: &str) -> bool {
        let is_it = |one: &CheckSpec| one.id == check && matches!(one.kind, CheckKind::Ttl { .. });
        self.spec.checks.iter().any(is_it)
    }

    fn is_over(&self, now: Instant) -> bool {
        let mut checks = self.spec.checks.iter().zip(&self.critical_since);
        self.remaining(now) == Some(Duration::ZERO)
            || checks.any(|(check, since)| {
                let both = check.critical_limit.zip(*since);
                both.is_some_and(|(limit, since)| now.saturating_duration_since(since) >= limit)
            })
    }

    /// How long it stays without a renewal; `None` for ever.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let lease = self.spec.lease?;
        Some((self.renewed + lease).saturating_duration_since(now))
    }
}

/// What came of a registration.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The instance.
    pub entry: Entry,
    /// Whether it is new, or other than before.
    pub is_new: bool,
}

/// All instances.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: BTreeMap<String, Entry>,
    index: u64,
}

/// An instance as it is kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    spec: InstanceSpec,
    results: Vec<CheckResult>,
    registered_at: i64,
    generation: u64,
    modify_index: u64,
    create_index: u64,
}

impl Table {
    /// From what was on disk. Nobody could renew or report meanwhile: every lease begins again.
    pub fn restored(records: Vec<Record>, index: u64, now: Instant) -> Self {
        let entries = records.into_iter().map(|record| {
            let reported = vec![now; record.spec.checks.len()];
            let entry = Entry {
                results: record.results,
                load: 0.0,
                registered_at: record.registered_at,
                generation: record.generation,
                modify_index: record.modify_index,
                create_index: record.create_index,
                renewed: now,
                reported,
                critical_since: vec![None; record.spec.checks.len()],
                spec: record.spec,
            };
            (entry.spec.id.clone(), entry)
        });
        Self {
            entries: entries.collect(),
            index,
        }
    }

    /// What is to be on disk.
    pub fn records(&self) -> Vec<Record> {
        let record = |entry: &Entry| Record {
            spec: entry.spec.clone(),
            results: entry.results.clone(),
            registered_at: entry.registered_at,
            generation: entry.generation,
            modify_index: entry.modify_index,
            create_index: entry.create_index,
        };
        self.entries.values().map(record).collect()
    }

    /// Counts changes. Renewals and loads are none.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// All instances, by id.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter()
    }

    /// One instance.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Adds or replaces an instance. Checks that it had before keep their results: registering again does not make it
    /// disappear for a moment.
    ///
    /// # Errors
    /// If the registry is full, or a pod would be replaced by something else.
    pub fn register(
        &mut self,
        spec: InstanceSpec,
        now_millis: i64,
        now: Instant,
    ) -> Result<Registered, Refused> {
        let known = self.entries.get(&spec.id);
        // Pods are bounded by the launcher's list of them, and no stranger can keep them out.
        let is_stranger = |pod: &Option<_>| pod.is_none();
        let strangers = || {
            let all = self.entries.values();
            all.filter(|one| is_stranger(&one.spec.pod)).count()
        };
        if known.is_none() && is_stranger(&spec.pod) && strangers() >= MAX_INSTANCES {
            return Err(Refused::Full);
        }
        if known.is_some_and(|known| known.spec.pod.is_some() && known.spec.pod != spec.pod) {
            return Err(Refused::IsPod);
        }
        if let Some(known) = known
            && known.spec == spec
        {
            let mut entry = known.clone();
            entry.renewed = now;
            self.entries.insert(spec.id.clone(), entry.clone());
            return Ok(Registered {
                entry,
                is_new: false,
            });
        }
        self.index += 1;
        let results = spec.checks.iter().map(|check| {
            let kept = known.and_then(|known| {
                let place = known.spec.checks.iter().position(|old| old == check)?;
                known.results.get(place).cloned()
            });
            kept.unwrap_or_else(|| CheckResult {
                health: check.initial,
                output: "not checked yet".to_owned(),
            })
        });
        let entry = Entry {
            results: results.collect(),
            load: known.map_or(0.0, |known| known.load),
            registered_at: known.map_or(now_millis, |known| known.registered_at),
            // The index is unique, over restarts too.
            generation: self.index,
            modify_index: self.index,
            create_index: known.map_or(self.index, |known| known.create_index),
            renewed: now,
            reported: vec![now; spec.checks.len()],
            critical_since: vec![None; spec.checks.len()],
            spec,
        };
        self.entries.insert(entry.spec.id.clone(), entry.clone());
        Ok(Registered {
            entry,
            is_new: true,
        })
    }

    /// Prolongs a lease and notes the load and what the instance reports of its checks; all of it or nothing.
    ///
    /// # Errors
    /// If there is no such instance, it is not for `caller` to change, or a report is of no check of the kind TTL.
    pub fn renew(
        &mut self,
        id: &str,
        caller: Option<&str>,
        load: Option<f64>,
        reports: &[(String, Health, String)],
        now: Instant,
    ) -> Result<Entry, Denied> {
        let entry = self.entries.get_mut(id).ok_or(Denied::Unknown)?;
        entry.allow(caller)?;
        let wrong = reports.iter().position(|(check, ..)| !entry.has_ttl(check));
        if let Some(place) = wrong {
            let check = reports[place].0.clone();
            return Err(Denied::NotReported { place, check });
        }
        entry.renewed = now;
        if let Some(load) = load {
            entry.load = load;
        }
        let generation = entry.generation;
        for (check, health, output) in reports {
            self.report(id, generation, check, *health, output, now);
        }
        self.entries.get(id).cloned().ok_or(Denied::Unknown)
    }

    /// Notes a check's result; of an older registration, or of a check that is not there, nothing.
    pub fn report(
        &mut self,
        id: &str,
        generation: u64,
        check: &str,
        health: Health,
        output: &str,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let place = entry.spec.checks.iter().position(|one| one.id == check);
        let Some(place) = place.filter(|_| entry.generation == generation) else {
            return;
        };
        entry.reported[place] = now;
        let result = CheckResult {
            health,
            output: output.chars().take(MAX_OUTPUT).collect(),
        };
        // Words alone are no change that anybody waits for.
        let changed = entry.results[place].health != health;
        entry.results[place] = result;
        if changed {
            self.index += 1;
            entry.modify_index = self.index;
        }
    }

    /// Notes the result of the check of the kind TTL with this id, in whichever instance outside of the mesh it is.
    ///
    /// # Errors
    /// If there is none, or only one of a pod: who knows no more than a check's id has not proved to be the pod.
    pub fn report_ttl(
        &mut self,
        check: &str,
        health: Health,
        output: &str,
        now: Instant,
    ) -> Result<(), Denied> {
        let found = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.has_ttl(check))
            .min_by_key(|(_, entry)| entry.spec.pod.is_some());
        let (id, entry) = found.ok_or(Denied::Unknown)?;
        entry.allow(None)?;
        let (id, generation) = (id.clone(), entry.generation);
        self.report(&id, generation, check, health, output, now);
        Ok(())
    }

    /// Removes an instance. Whether it was there.
    ///
    /// # Errors
    /// If it is not for `caller` to change.
    pub fn deregister(&mut self, id: &str, caller: Option<&str>) -> Result<bool, Denied> {
        let Some(entry) = self.entries.get(id) else {
            return Ok(false);
        };
        entry.allow(caller)?;
        self.remove(id);
        Ok(true)
    }

    fn remove(&mut self, id: &str) {
        if self.entries.remove(id).is_some() {
            self.index += 1;
        }
    }

    /// This process stood still for so long: nobody could renew or report meanwhile, and the time counts for nothing.
    pub fn stood_still(&mut self, gap: Duration) {
        for entry in self.entries.values_mut() {
            entry.renewed += gap;
            for reported in &mut entry.reported {
                *reported += gap;
            }
            for since in entry.critical_since.iter_mut().flatten() {
                *since += gap;
            }
        }
    }

    /// Fails checks that nobody reported to, then removes instances whose lease is over and those that have been critical
    /// for longer than they said. The ids of those removed.
    pub fn expire(&mut self, now: Instant) -> Vec<String> {
        for entry in self.entries.values_mut() {
            for (place, check) in entry.spec.checks.iter().enumerate() {
                let CheckKind::Ttl { ttl } = check.kind else {
                    continue;
                };
                let silent = now.saturating_duration_since(entry.reported[place]) >= ttl;
                if silent && entry.results[place].health != Health::Critical {
                    entry.results[place] = CheckResult {
                        health: Health::Critical,
                        output: "no report in time".to_owned(),
                    };
                    self.index += 1;
                    entry.modify_index = self.index;
                }
            }
            for (result, since) in entry.results.iter().zip(&mut entry.critical_since) {
                if result.health == Health::Critical {
                    since.get_or_insert(now);
                } else {
                    *since = None;
                }
            }
        }
        let over: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_over(now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &over {
            self.remove(id);
        }
        over
    }
}
