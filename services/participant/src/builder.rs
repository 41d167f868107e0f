//! Registering steps, and starting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::{Env, Tasks};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::link::Link;
use crate::step::{DynStep, Step};
use crate::telemetry::StepMetrics;
use sagamesh_api::saga::v1::{Direction, Heartbeat, Result as StepResult};

/// The most commands at a time, if nothing else is said.
const DEFAULT_CONCURRENCY: u32 = 64;
/// The most that the contract lets a participant ask for.
const MAX_CONCURRENCY: u32 = 100_000;
/// The most actions that one participant handles.
const MAX_ACTIONS: usize = 256;
/// Signs of life that a link may leave unsent for others.
const KEPT_BEATS: usize = 256;
/// How long running work may take to finish on shutdown, if nothing else is said.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// A participant that cannot be started as it was described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The name breaks the rules.
    #[error("participant name `{0}` must be 1 to 63 characters of [a-z0-9-]")]
    Name(String),
    /// The instance breaks the rules.
    #[error("instance `{0}` must be 1 to 128 characters")]
    Instance(String),
    /// No coordinator, or one that is no address.
    #[error(
        "coordinator `{0}` is no address: give it as http://HOST:PORT, several with commas between them"
    )]
    Coordinator(String),
    /// Nothing to do, or too much.
    #[error("a participant handles 1 to 256 actions, this one has {0}")]
    Actions(usize),
    /// An action's name breaks the rules.
    #[error("action `{0}` must be 1 to 127 characters of [A-Za-z0-9._/-]")]
    Action(String),
    /// The same name was registered twice.
    #[error("`{0}` was registered twice")]
    Twice(String),
    /// Concurrency out of range.
    #[error("concurrency {0} must be from 1 to 100000")]
    Concurrency(u32),
}

/// A participant in sagas. Start with [`Participant::builder`].
#[derive(Debug, Clone, Copy)]
pub struct Participant;

impl Participant {
    /// Describes a participant called `name` that serves the coordinator at `coordinator`, for example
    /// `http://127.0.0.1:50051`; several replicas with commas between them.
    pub fn builder(name: impl Into<String>, coordinator: impl AsRef<str>, env: &Env) -> Builder {
        Builder {
            name: name.into(),
            instance: Uuid::now_v7().to_string(),
            coordinators: coordinator
                .as_ref()
                .split(',')
                .map(|url| url.trim().to_owned())
                .collect(),
            concurrency: DEFAULT_CONCURRENCY,
            grace: DEFAULT_GRACE,
            steps: Vec::new(),
            env: env.clone(),
        }
    }
}

/// A participant being described.
#[must_use]
pub struct Builder {
    name: String,
    instance: String,
    coordinators: Vec<String>,
    concurrency: u32,
    grace: Duration,
    steps: Vec<(String, Direction, Arc<dyn DynStep>)>,
    env: Env,
}

impl Builder {
    /// Identity of this process: a new stream of the same instance replaces the old one. A random UUID if nothing else is said.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = instance.into();
        self
    }

    /// The most commands that run at a time, for each coordinator: 64 if nothing else is said.
    pub const fn concurrency(mut self, commands: u32) -> Self {
        self.concurrency = commands;
        self
    }

    /// How long running commands may take to finish on shutdown: 5 s if nothing else is said.
    pub const fn drain_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// One more coordinator.
    pub fn coordinator(mut self, url: impl Into<String>) -> Self {
        self.coordinators.push(url.into());
        self
    }

    /// Handles the action `name`.
    pub fn action(self, name: impl Into<String>, handler: impl Step) -> Self {
        self.step(name, Direction::Action, handler)
    }

    /// Handles the compensation `name`.
    pub fn compensation(self, name: impl Into<String>, handler: impl Step) -> Self {
        self.step(name, Direction::Compensation, handler)
    }

    fn step(mut self, name: impl Into<String>, direction: Direction, handler: impl Step) -> Self {
        self.steps.push((name.into(), direction, Arc::new(handler)));
        self
    }

    /// Connects, and keeps connected until `tasks` drain. Does not wait for a coordinator to be there.
    pub fn run(self, tasks: &Tasks) -> Result<Running, BuildError> {
        let shared = Arc::new(self.shared(tasks)?);
        let running = Running {
            shared: Arc::clone(&shared),
        };
        for address in shared.configured.clone() {
            Shared::dial(&shared, address);
        }
        Ok(running)
    }

    fn shared(self, tasks: &Tasks) -> Result<Shared, BuildError> {
        if !valid(&self.name, 63, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
        }) {
            return Err(BuildError::Name(self.name));
        }
        if !valid(&self.instance, 128, |_| true) {
            return Err(BuildError::Instance(self.instance));
        }
        if self.concurrency == 0 || self.concurrency > MAX_CONCURRENCY {
            return Err(BuildError::Concurrency(self.concurrency));
        }
        if let Some(bad) = self
            .coordinators
            .iter()
            .find(|url| url.parse::<tonic::codegen::http::Uri>().is_err())
        {
            return Err(BuildError::Coordinator(bad.clone()));
        }
        let mut steps: BTreeMap<String, Handlers> = BTreeMap::new();
        for (name, direction, handler) in self.steps {
            if !valid(&name, 127, |c| {
                c.is_ascii_alphanumeric() || "._/-".contains(c)
            }) {
                return Err(BuildError::Action(name));
            }
            let metrics = StepMetrics::new(&self.name, &name);
            let place = steps.entry(name.clone()).or_default().place(direction);
            if place.replace(Registered { handler, metrics }).is_some() {
                return Err(BuildError::Twice(name));
            }
        }
        if steps.is_empty() || steps.len() > MAX_ACTIONS {
            return Err(BuildError::Actions(steps.len()));
        }
        let configured: BTreeSet<String> = self.coordinators.into_iter().collect();
        Ok(Shared {
            name: self.name,
            instance: self.instance,
            configured,
            concurrency: self.concurrency,
            grace: self.grace,
            steps,
            env: self.env,
            tasks: tasks.clone(),
            stop: tasks.draining(),
            replicas: Mutex::default(),
            orphans: Mutex::default(),
            orphaned: Notify::new(),
            beats: broadcast::Sender::new(KEPT_BEATS),
            connected: watch::Sender::new(0),
        })
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("coordinators", &self.coordinators)
            .finish_non_exhaustive()
    }
}

/// A participant that was started. Dropping it changes nothing: it runs until the tasks drain.
#[derive(Clone)]
pub struct Running {
    shared: Arc<Shared>,
}

impl Running {
    /// How many coordinators it is connected to.
    #[must_use]
    pub fn streams(&self) -> usize {
        *self.shared.connected.borrow()
    }

    /// Addresses of the coordinators that it is connected to, or tries to be.
    #[must_use]
    pub fn coordinators(&self) -> BTreeSet<String> {
        self.shared.replicas().links.clone()
    }

    /// Waits until it is connected to at least one coordinator.
    pub async fn connected(&self) {
        let mut streams = self.shared.connected.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = streams.wait_for(|streams| *streams > 0).await;
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("name", &self.shared.name)
            .field("streams", &self.streams())
            .finish()
    }
}

/// What all links of a participant have in common.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) configured: BTreeSet<String>,
    pub(crate) concurrency: u32,
    pub(crate) grace: Duration,
    pub(crate) steps: BTreeMap<String, Handlers>,
    pub(crate) env: Env,
    pub(crate) tasks: Tasks,
    /// Cancelled when the participant must drain.
    pub(crate) stop: CancellationToken,
    replicas: Mutex<Replicas>,
    /// Results whose own link has no stream: any other replica takes them too.
    orphans: Mutex<VecDeque<StepResult>>,
    /// There are such results.
    pub(crate) orphaned: Notify,
    /// Signs of life of attempts whose own link has no stream: one of the other replicas may wait for them.
    pub(crate) beats: broadcast::Sender<Heartbeat>,
    /// How many links have a stream.
    pub(crate) connected: watch::Sender<usize>,
}

/// The coordinator's replicas.
#[derive(Default)]
struct Replicas {
    /// Addresses that a link is held to.
    links: BTreeSet<String>,
    /// Addresses that one of them named last; empty until then.
    named: BTreeSet<String>,
}

impl Shared {
    /// Holds a link to `address`, unless there is one.
    pub(crate) fn dial(shared: &Arc<Self>, address: String) {
        let new = shared.replicas().links.insert(address.clone());
        if new {
            let link = Link::new(Arc::clone(shared), address);
            shared.tasks.spawn_essential("participant", link.run());
        }
    }

    /// These are the replicas now: there is a link to each, and links to others end once they have no stream.
    pub(crate) fn meet(shared: &Arc<Self>, addresses: &[String]) {
        shared.replicas().named = addresses.iter().cloned().collect();
        for address in addresses {
            Self::dial(shared, address.clone());
        }
    }

    /// Whether a link without a stream is to end, because its replica is gone. If so, it counts as gone.
    pub(crate) fn leave(&self, address: &str) -> bool {
        let mut replicas = self.replicas();
        let gone = !replicas.named.is_empty()
            && !replicas.named.contains(address)
            && !self.configured.contains(address);
        gone && replicas.links.remove(address)
    }

    fn replicas(&self) -> std::sync::MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a sign of life to links that have a stream. Without one nobody hears it.
    pub(crate) fn beat(&self, beat: Heartbeat) {
        let _ = self.beats.send(beat);
    }

    /// Leaves results to a link that has a stream.
    pub(crate) fn orphan(&self, results: Vec<StepResult>) {
        if !results.is_empty() {
            self.orphans().extend(results);
            self.orphaned.notify_one();
        }
    }

    /// Takes the results that others have left.
    pub(crate) fn adopt(&self) -> VecDeque<StepResult> {
        std::mem::take(&mut *self.orphans())
    }

    fn orphans(&self) -> std::sync::MutexGuard<'_, VecDeque<StepResult>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is registered under one name.
#[derive(Default)]
pub(crate) struct Handlers {
    action: Option<Registered>,
    compensation: Option<Registered>,
}

impl Handlers {
    fn place(&mut self, direction: Direction) -> &mut Option<Registered> {
        if direction == Direction::Compensation {
            &mut self.compensation
        } else {
            &mut self.action
        }
    }

    /// The handler for a direction.
    pub(crate) const fn get(&self, direction: Direction) -> Option<&Registered> {
        match direction {
            Direction::Compensation => self.compensation.as_ref(),
            Direction::Action => self.action.as_ref(),
            Direction::Unspecified => None,
        }
    }
}

/// One handler.
pub(crate) struct Registered {
    pub(crate) handler: Arc<dyn DynStep>,
    pub(crate) metrics: Arc<StepMetrics>,
}

fn valid(text: &str, most: usize, allowed: impl Fn(char) -> bool) -> bool {
    (1..=most).contains(&text.len()) && text.chars().all(allowed)
}
