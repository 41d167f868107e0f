//! Definitions and participants: what is on record about them, and the copy in memory that starts are checked against.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use sagamesh_api::saga::v1::{self as pb, Definition};

use crate::hub::Settings;
use crate::saga::{Plan, Plans, Violation};

/// One definition name: its versions, folded from stream `definition/<name>`.
#[derive(Clone, Debug, Default)]
pub struct DefinitionRecord {
    /// Oldest first.
    pub versions: Vec<Version>,
    /// Hash of the version that new sagas run.
    pub active: Option<String>,
    /// Why new sagas are refused, if they are.
    pub paused: Option<String>,
}

/// One registered version.
#[derive(Clone, Debug)]
pub struct Version {
    /// What it does.
    pub plan: Arc<Plan>,
    /// When it was registered, Unix milliseconds.
    pub registered: i64,
    /// It can no longer be started; sagas that ran it are still readable.
    pub deleted: bool,
}

/// An event of a definition.
#[derive(Clone, Debug, PartialEq)]
pub enum DefinitionEvent {
    /// A version was registered.
    Registered(Box<pb::DefinitionRegistered>),
    /// A version became the one that new sagas run.
    Activated(pb::DefinitionActivated),
    /// New sagas are refused.
    Paused(pb::DefinitionPaused),
    /// New sagas are accepted.
    Resumed(pb::DefinitionResumed),
    /// A version was deleted.
    Deleted(pb::DefinitionDeleted),
}

/// What is asked of a definition.
#[derive(Clone, Debug)]
pub enum DefinitionChange {
    /// Store this version.
    Register(Arc<Plan>),
    /// Make a version the active one.
    Activate {
        /// Its hash.
        hash: String,
        /// Hash of the version that is active now; empty for none.
        expected: String,
    },
    /// Refuse new sagas.
    Pause {
        /// Why.
        reason: String,
    },
    /// Accept new sagas.
    Resume,
    /// Delete a version. The caller has made sure that no saga runs it.
    Delete {
        /// Its hash.
        hash: String,
    },
}

/// Why a definition does not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionRefusal {
    /// No definition has this name.
    #[error("no definition of this name is registered: register it first")]
    NotFound,
    /// No version has this hash.
    #[error("the definition has no version {0}: list its versions, or register this one first")]
    NoVersion(String),
    /// Another version is active than expected.
    #[error(
        "version {0:?} is active, not the expected one: look at what changed, then try again with this as expected_active_hash"
    )]
    ActiveChanged(String),
    /// The version is active.
    #[error("the version is active: activate another one first")]
    Active,
}

impl DefinitionRecord {
    /// What `change` records; nothing if it changes nothing.
    pub fn decide(
        &self,
        change: &DefinitionChange,
        now: i64,
    ) -> Result<Option<DefinitionEvent>, DefinitionRefusal> {
        match change {
            DefinitionChange::Register(plan) => Ok(self.find(plan.hash()).is_none().then(|| {
                DefinitionEvent::Registered(Box::new(pb::DefinitionRegistered {
                    definition: Some(plan.definition().clone()),
                    hash: plan.hash().to_owned(),
                    register_time: Some(chassis::timestamp::from_millis(now)),
                }))
            })),
            _ if self.versions.is_empty() => Err(DefinitionRefusal::NotFound),
            DefinitionChange::Activate { hash, expected } => {
                self.version(hash)?;
                let active = self.active.as_deref().unwrap_or_default();
                if active == hash {
                    return Ok(None);
                }
                if active != expected {
                    return Err(DefinitionRefusal::ActiveChanged(active.to_owned()));
                }
                Ok(Some(DefinitionEvent::Activated(pb::DefinitionActivated {
                    hash: hash.clone(),
                })))
            }
            DefinitionChange::Pause { reason } => {
                Ok(Some(DefinitionEvent::Paused(pb::DefinitionPaused {
                    reason: reason.clone(),
                })))
            }
            DefinitionChange::Resume => Ok(self
                .paused
                .is_some()
                .then_some(DefinitionEvent::Resumed(pb::DefinitionResumed {}))),
            DefinitionChange::Delete { hash } => {
                self.version(hash)?;
                if self.active.as_deref() == Some(hash) {
                    return Err(DefinitionRefusal::Active);
                }
                Ok(Some(DefinitionEvent::Deleted(pb::DefinitionDeleted {
                    hash: hash.clone(),
                })))
            }
        }
    }

    /// Applies a recorded event. `plans` keeps one plan per hash.
    pub fn evolve(&mut self, event: &DefinitionEvent, plans: &Registry) {
        match event {
            DefinitionEvent::Registered(registered) => {
                let Some(definition) = &registered.definition else {
                    return;
                };
                match plans.intern(definition) {
                    // A newer program's: of what it says a part was not understood, and running the rest would be something else.
                    Ok(plan) if plan.hash() != registered.hash => {
                        tracing::warn!(name = %definition.name, hash = %registered.hash, "a newer program registered this version of the definition: its sagas are left to that one");
                    }
                    Ok(plan) => {
                        self.versions
                            .retain(|version| version.plan.hash() != plan.hash());
                        let registered = registered
                            .register_time
                            .as_ref()
                            .map_or(0, chassis::timestamp::to_millis);
                        self.versions.push(Version {
                            plan,
                            registered,
                            deleted: false,
                        });
                    }
                    Err(violations) => {
                        tracing::error!(name = %definition.name, hash = %registered.hash, ?violations, "a definition on record is no longer valid: its sagas cannot go on");
                    }
                }
            }
            DefinitionEvent::Activated(activated) => self.active = Some(activated.hash.clone()),
            DefinitionEvent::Paused(paused) => self.paused = Some(paused.reason.clone()),
            DefinitionEvent::Resumed(_) => self.paused = None,
            DefinitionEvent::Deleted(deleted) => {
                for version in &mut self.versions {
                    version.deleted |= version.plan.hash() == deleted.hash;
                }
            }
        }
    }

    /// The version with this hash, unless it was deleted.
    pub fn find(&self, hash: &str) -> Option<&Version> {
        self.versions
            .iter()
            .find(|version| !version.deleted && version.plan.hash() == hash)
    }

    fn version(&self, hash: &str) -> Result<&Version, DefinitionRefusal> {
        self.find(hash)
            .ok_or_else(|| DefinitionRefusal::NoVersion(hash.to_owned()))
    }
}

/// One participant, folded from stream `participant/<name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParticipantRecord {
    /// It was made known here (and not by configuration alone).
    pub known: bool,
    /// Its settings.
    pub settings: Settings,
}

/// An event of a participant.
#[derive(Clone, Debug, PartialEq)]
pub enum ParticipantEvent {
    /// It was made known, or its limits were set.
    Put(pb::ParticipantPut),
    /// Commands are held back.
    Paused(pb::ParticipantPaused),
    /// Commands are released.
    Resumed(pb::ParticipantResumed),
}

impl ParticipantRecord {
    /// Whether the event would change anything.
    pub fn changes(&self, event: &ParticipantEvent) -> bool {
        match event {
            ParticipantEvent::Put(put) => {
                !self.known || self.settings.max_concurrency != put.max_concurrency
            }
            ParticipantEvent::Paused(_) => true,
            ParticipantEvent::Resumed(_) => self.settings.paused,
        }
    }

    /// Applies a recorded event.
    pub fn evolve(&mut self, event: &ParticipantEvent) {
        match event {
            ParticipantEvent::Put(put) => {
                self.known = true;
                self.settings.max_concurrency = put.max_concurrency;
            }
            ParticipantEvent::Paused(_) => self.settings.paused = true,
            ParticipantEvent::Resumed(_) => self.settings.paused = false,
        }
    }
}

/// Every plan by hash, and every definition by name, as far as they are durable.
#[derive(Debug, Default)]
pub struct Registry {
    plans: RwLock<HashMap<String, Arc<Plan>>>,
    /// With the number of events they were made of.
    definitions: RwLock<BTreeMap<String, (u64, DefinitionRecord)>>,
}

impl Registry {
    /// The one plan with the content of `definition`; compiled when it is met for the first time.
    pub fn intern(&self, definition: &Definition) -> Result<Arc<Plan>, Vec<Violation>> {
        let plan = Arc::new(Plan::compile(definition)?);
        let mut plans = self.plans.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(
            plans.entry(plan.hash().to_owned()).or_insert(plan),
        ))
    }

    /// What became durable, up to this version; what is newer already stays.
    pub fn publish(&self, name: &str, record: DefinitionRecord, version: u64) {
        let mut definitions = self
            .definitions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if definitions
            .get(name)
            .is_none_or(|(newest, _)| *newest <= version)
        {
            definitions.insert(name.to_owned(), (version, record));
        }
    }

    /// Looks at one definition.
    pub fn with<R>(&self, name: &str, look: impl FnOnce(Option<&DefinitionRecord>) -> R) -> R {
        look(
            self.definitions
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(name)
                .map(|(_, record)| record),
        )
    }

    /// All definitions, by name.
    pub fn all(&self) -> Vec<(String, DefinitionRecord)> {
        let definitions = self
            .definitions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        definitions
            .iter()
            .map(|(name, (_, record))| (name.clone(), record.clone()))
            .collect()
    }

    /// Names of all definitions, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        self.definitions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }
}

impl Plans for Registry {
    fn plan(&self, _definition: &str, hash: &str) -> Option<Arc<Plan>> {
        self.plans
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(hash)
            .cloned()
    }
}
