//! The hub: what open sagas are owed, and who may do it. Queues, credits, streams, breakers and timers of one shard in one
//! place, behind one lock that nobody holds while waiting.
//!
//! ```text
//!   committed events --> attempts, timers --> queues --credits--> outboxes --> streams
//!   results, silence, due timers --------------------------------------------> commands to the ledger
//! ```
//! It is synchronous and knows no clock: times are passed in (Unix milliseconds). What must happen outside (commands for the
//! ledger, streams to wake) is collected in [`Out`] and done by the caller after the lock is released.

mod attempts;
mod commits;
mod queues;
mod report;
mod session;
mod shards;
mod streams;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use ledger::StreamId;
use sagamesh_api::saga::v1 as pb;
use tokio::sync::{oneshot, watch};

use crate::saga::{self, Plan};

use attempts::Attempt;
use queues::{ByToken, Participant};
use session::Session;

pub use attempts::Reported;
pub use report::Settings;
pub(crate) use session::End;
pub use session::SessionId;
pub use timers::{Due, TimerKey, Timers};

/// Limits and times of the hub.
#[derive(Clone, Copy, Debug)]
pub struct HubOptions {
    /// How long a breaker stays open.
    pub breaker_recovery: Duration,
}

/// What must be done once the lock is released.
#[derive(Debug, Default)]
pub struct Out {
    /// Commands for the ledger.
    pub commands: Vec<(StreamId, saga::Command)>,
    /// Streams with something to write.
    pub wakers: Vec<Waker>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    sagas: HashMap<StreamId, Entry>,
    /// Shards whose sagas are run here.
    shards: BTreeMap<i64, Shard>,
    /// Sagas that something is being done for; the rest waits for times, signals or operators.
    active: Active,
    attempts: ByToken<Attempt>,
    participants: Vec<Participant>,
    by_name: HashMap<String, usize>,
    sessions: BTreeMap<SessionId, Session>,
    next_session: SessionId,
    timers: Timers,
    routes: HashMap<usize, Arc<Routes>>,
    waiters: HashMap<StreamId, Vec<oneshot::Sender<pb::Saga>>>,
    /// A channel for each: the receivers of one are woken in no certain order, and a simulation must run the same way twice.
    watchers: HashMap<StreamId, Vec<watch::Sender<u64>>>,
    dirty: Vec<usize>,
    woken: Vec<SessionId>,
    /// Addresses of all replicas, this one included.
    peers: Vec<String>,
    draining: bool,
    effects: Vec<saga::Effect>,
    out: Out,
}

/// What the hub knows of a shard.
#[derive(Debug)]
struct Shard {
    /// Attempts that were on record when it came, and surely were never sent.
    unsent: HashSet<u64>,
    /// Sagas that were asked for, to be taken in, and have not ended since.
    resuming: HashSet<StreamId>,
    /// Every saga that was open when it came has been taken in, but so many whose records could not be read.
    resumed: Option<usize>,
}

/// What the hub knows of an open saga.
#[derive(Debug)]
struct Entry {
    shard: i64,
    routes: Arc<Routes>,
    /// Tokens of attempts that are owed or under way.
    attempts: Vec<u64>,
    timers: Vec<(saga::Timer, TimerKey)>,
    active: bool,
    /// Of what it was given. Memory holds it a few times: in its state, and in each command that waits.
    bytes: usize,
}

/// Sums over active sagas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active {
    /// How many they are.
    pub sagas: usize,
    /// What they were given.
    pub bytes: usize,
}

impl Active {
    fn enter(&mut self, entry: &Entry) {
        self.sagas += usize::from(entry.active);
        self.bytes += if entry.active { entry.bytes } else { 0 };
    }

    fn leave(&mut self, entry: &Entry) {
        self.sagas -= usize::from(entry.active);
        self.bytes -= if entry.active { entry.bytes } else { 0 };
    }
}

/// Where the steps of a plan go: participant and queue of each action and compensation.
#[derive(Debug)]
struct Routes {
    /// Keeps the plan's address taken, by which routes are found.
    plan: Arc<Plan>,
    actions: Vec<Option<(usize, usize)>>,
    compensations: Vec<Option<(usize, usize)>>,
}

impl Hub {
    /// Nothing is open, nobody is connected.
    pub fn new(options: HubOptions) -> Self {
        Self {
            options,
            sagas: HashMap::new(),
            shards: BTreeMap::new(),
            active: Active::default(),
            attempts: ByToken::default(),
            participants: Vec::new(),
            by_name: HashMap::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
            timers: Timers::default(),
            routes: HashMap::new(),
            waiters: HashMap::new(),
            watchers: HashMap::new(),
            dirty: Vec::new(),
            woken: Vec::new(),
            peers: Vec::new(),
            draining: false,
            effects: Vec::new(),
            out: Out::default(),
        }
    }

    /// Sagas that have not ended.
    pub fn open_sagas(&self) -> usize {
        self.sagas.len()
    }

    /// Whether this saga has not ended.
    pub fn is_open(&self, stream: &StreamId) -> bool {
        self.sagas.contains_key(stream)
    }

    /// Whether a timer was set that is due before all others, since this was asked last.
    pub(crate) fn take_earlier(&mut self) -> bool {
        self.timers.take_earlier()
    }

    /// Sagas that work is under way or queued for.
    pub fn active(&self) -> Active {
        self.active
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<i64> {
        self.timers.next()
    }

    /// Hands out what was collected, and says whether the next timer is now due earlier than the timer task knows.
    pub fn take_out(&mut self, now: i64) -> (Out, bool) {
        self.pump(now);
        if self.draining {
            self.end_drained();
        }
        self.wake();
        (std::mem::take(&mut self.out), self.timers.take_earlier())
    }

    /// Tells the caller when the saga ends. Registered before a saga is started, so that no end is missed.
    pub fn wait_for_end(&mut self, stream: &StreamId) -> oneshot::Receiver<pb::Saga> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.entry(stream.clone()).or_default().push(sender);
        receiver
    }

    /// Forgets callers that gave up waiting.
    pub fn forget_waiters(&mut self, stream: &StreamId) {
        if let Some(waiters) = self.waiters.get_mut(stream) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                self.waiters.remove(stream);
            }
        }
    }

    /// Follows a saga's newest durable version. The value is 0 until something is committed after this call.
    pub fn watch(&mut self, stream: &StreamId) -> watch::Receiver<u64> {
        let (sender, receiver) = watch::channel(0);
        self.watchers
            .entry(stream.clone())
            .or_default()
            .push(sender);
        receiver
    }

    /// Whether anybody follows any saga.
    pub(crate) fn has_watchers(&self) -> bool {
        !self.watchers.is_empty()
    }

    /// An event of a saga became durable, here or on another replica.
    pub(crate) fn recorded(&mut self, stream: &StreamId, version: u64) {
        for watcher in self.watchers.get(stream).into_iter().flatten() {
            watcher.send_if_modified(|newest| {
                let newer = version > *newest;
                *newest = version.max(*newest);
                newer
            });
        }
    }

    /// Drops what nobody follows any more.
    pub fn forget_watchers(&mut self, stream: &StreamId) {
        if let Some(watchers) = self.watchers.get_mut(stream) {
            watchers.retain(|watcher| watcher.receiver_count() > 0);
            if watchers.is_empty() {
                self.watchers.remove(stream);
            }
        }
    }

    /// The routes of a plan; made when it is met for the first time.
    fn routes(&mut self, plan: &Arc<Plan>) -> Arc<Routes> {
        let address = Arc::as_ptr(plan).addr();
        if let Some(routes) = self.routes.get(&address) {
            return Arc::clone(routes);
        }
        let mut actions = Vec::with_capacity(plan.steps().len());
        let mut compensations = Vec::with_capacity(plan.steps().len());
        for step in plan.steps() {
            let Some(call) = step.call() else {
                actions.push(None);
                compensations.push(None);
                continue;
            };
            let at = self.participant(&call.participant);
            let recovery = self.options.breaker_recovery;
            let participant = &mut self.participants[at];
            let urgent = step.phase == pb::Phase::Retriable;
            actions.push(Some((
                at,
                participant.queue(&call.action, pb::Direction::Action, urgent, recovery),
            )));
            let undo = call.compensation.as_ref().map(|name| {
                (
                    at,
                    participant.queue(name, pb::Direction::Compensation, true, recovery),
                )
            });
            compensations.push(undo);
        }
        let routes = Arc::new(Routes {
            plan: Arc::clone(plan),
            actions,
            compensations,
        });
        self.routes.insert(address, Arc::clone(&routes));
        routes
    }

    /// The participant of this name; made when it is met for the first time.
    fn participant(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let at = self.participants.len();
        self.participants.push(Participant::new(name));
        self.by_name.insert(name.to_owned(), at);
        at
    }

    fn touch(&mut self, participant: usize) {
        if let Some(found) = self.participants.get_mut(participant)
            && !found.dirty
        {
            found.dirty = true;
            self.dirty.push(participant);
        }
    }

    fn wake(&mut self) {
        while let Some(session) = self.woken.pop() {
            let waker = self
                .sessions
                .get_mut(&session)
                .and_then(|session| session.waker.take());
            self.out.wakers.extend(waker);
        }
    }
}

impl Routes {
    fn of(&self, step: saga::StepIndex, direction: pb::Direction) -> Option<(usize, usize)> {
        let routes = if direction == pb::Direction::Compensation {
            &self.compensations
        } else {
            &self.actions
        };
        routes.get(usize::from(step)).copied().flatten()
    }
}
