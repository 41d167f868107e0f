//! The hub behind its lock, and what must happen after the lock is released.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chassis::Env;
use ledger::{Committed, Observer, StreamId};
use sagamesh_api::saga::v1::{Transition, transition::Kind};
use tokio::sync::{Notify, mpsc};

use crate::decider::{Coordinator, Event, State};
use crate::hub::Hub;
use crate::meters::Meters;
use crate::ownership::Ownership;
use crate::registry::Registry;
use crate::saga::{self, SagaState};

/// A command that the coordinator gives itself: a timer, a silence, a saga taken out of a queue.
pub type Owed = (StreamId, saga::Command);

/// The hub, shared. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch(Arc<Inner>);

struct Inner {
    hub: Mutex<Hub>,
    env: Env,
    timer: Notify,
    owed: mpsc::UnboundedSender<Owed>,
    ownership: Ownership,
    /// Something is durable that the hub has not seen: an abort, perhaps.
    behind: AtomicBool,
}

impl Dispatch {
    /// A shared hub; its commands for the ledger go to `owed`.
    pub fn new(
        hub: Hub,
        env: Env,
        owed: mpsc::UnboundedSender<Owed>,
        ownership: Ownership,
    ) -> Self {
        Self(Arc::new(Inner {
            hub: Mutex::new(hub),
            env,
            timer: Notify::new(),
            owed,
            ownership,
            behind: AtomicBool::new(false),
        }))
    }

    /// Does something with the hub, then hands out work and wakes whoever has something to do. Never held across a wait.
    pub fn with<R>(&self, work: impl FnOnce(&mut Hub, i64) -> R) -> R {
        let now = self.now();
        let (result, out, earlier) = {
            let mut hub = self.0.hub.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut hub, now);
            let (out, earlier) = hub.take_out(now);
            (result, out, earlier)
        };
        for waker in out.wakers {
            waker.wake();
        }
        for owed in out.commands {
            // Without a receiver the process is stopping, and recovery finds it again.
            drop(self.0.owed.send(owed));
        }
        if earlier {
            self.0.timer.notify_one();
        }
        result
    }

    /// Looks at the hub; hands nothing out.
    pub fn look<R>(&self, look: impl FnOnce(&Hub, i64) -> R) -> R {
        let now = self.now();
        look(
            &self.0.hub.lock().unwrap_or_else(PoisonError::into_inner),
            now,
        )
    }

    /// As [`Dispatch::with`], for the writing side of streams: it hands nothing out and wakes nobody but the timer.
    pub(crate) fn quietly<R>(&self, work: impl FnOnce(&mut Hub, i64) -> R) -> R {
        let now = self.now();
        let (result, earlier) = {
            let mut hub = self.0.hub.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut hub, now);
            (result, hub.take_earlier())
        };
        if earlier {
            self.0.timer.notify_one();
        }
        result
    }

    /// Whether commands may be handed to the transport now.
    pub(crate) fn may_release(&self) -> bool {
        self.0.ownership.may_release() && !self.0.behind.load(Ordering::Acquire)
    }

    /// Unix milliseconds.
    pub fn now(&self) -> i64 {
        self.0.env.clock.now_millis()
    }

    /// Waits until a timer was set that is due before all others.
    pub(crate) async fn earlier(&self) {
        self.0.timer.notified().await;
    }
}

/// Turns committed events into work, on the committer's task.
pub struct Release {
    dispatch: Dispatch,
    registry: Arc<Registry>,
    meters: Meters,
}

impl Release {
    /// Releases into `dispatch`.
    pub fn new(dispatch: Dispatch, registry: Arc<Registry>, meters: Meters) -> Self {
        Self {
            dispatch,
            registry,
            meters,
        }
    }
}

impl Observer<Coordinator> for Release {
    fn committed(&mut self, commits: &[Committed<'_, Coordinator>]) {
        let (registry, meters) = (&self.registry, &mut self.meters);
        self.dispatch.with(|hub, now| {
            for (at, commit) in commits.iter().enumerate() {
                match (commit.event, commit.state) {
                    (Event::Saga(event), State::Saga(state)) => {
                        meters.committed(commit.stream, event, state);
                        if is_overtaken(&commits[at..], state) {
                            hub.overtaken(commit.stream, commit.version, state, now);
                            continue;
                        }
                        if commit.version > 1 && hub.is_unmet(commit.stream, state) {
                            let fresh = dispatched(&commits[at..], commit.stream);
                            hub.recovered(commit.stream, state, &fresh, now);
                        }
                        hub.committed(commit.stream, commit.version, event, state, now);
                    }
                    (Event::Definition(_), State::Definition(record)) => {
                        registry.publish(commit.stream.key(), record.clone(), commit.version)
                    }
                    (Event::Participant(_), State::Participant(record)) => {
                        hub.set_participant(commit.stream.key(), record.settings)
                    }
                    _ => {}
                }
            }
            meters.levels(hub);
            if self.dispatch.0.behind.swap(false, Ordering::AcqRel) {
                hub.wake_all();
            }
        });
    }

    fn behind(&mut self) {
        self.dispatch.0.behind.store(true, Ordering::Release);
    }
}

/// Whether more happened to the saga of the first of these than they say: another replica ran it while nobody knew whether they are durable.
fn is_overtaken(commits: &[Committed<'_, Coordinator>], state: &SagaState) -> bool {
    let Some((first, later)) = commits.split_first() else {
        return false;
    };
    // Mostly it is its saga's last one.
    let is_known = |version: u64| version == state.version();
    let of_saga = |commit: &&Committed<'_, Coordinator>| commit.stream == first.stream;
    !is_known(first.version)
        && !later
            .iter()
            .filter(of_saga)
            .any(|commit| is_known(commit.version))
}

/// Attempts of one saga that these events released.
fn dispatched(commits: &[Committed<'_, Coordinator>], stream: &StreamId) -> HashSet<u64> {
    let of_saga = commits.iter().filter(|commit| commit.stream == stream);
    let transitions = of_saga.flat_map(|commit| match commit.event {
        Event::Saga(event) => event.transitions.as_slice(),
        _ => &[],
    });
    let token = |transition: &Transition| match &transition.kind {
        Some(Kind::Dispatched(dispatched)) => Some(dispatched.lease_token),
        _ => None,
    };
    transitions.filter_map(token).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sagamesh_api::saga::v1 as pb;

    use super::*;
    use crate::decider::saga_stream;
    use crate::hub::HubOptions;
    use crate::saga::Plan;

    fn parts() -> (Dispatch, Release) {
        let env = Env::system();
        let breaker_recovery = Duration::from_secs(1);
        let mut hub = Hub::new(HubOptions { breaker_recovery });
        hub.hold(0, HashSet::new());
        let (owed, _commands) = mpsc::unbounded_channel();
        let dispatch = Dispatch::new(hub, env.clone(), owed, Ownership::alone(&env));
        let release = Release::new(dispatch.clone(), Arc::default(), Meters::default());
        (dispatch, release)
    }

    #[test]
    fn nothing_leaves_while_something_durable_has_not_been_seen() {
        let (dispatch, mut release) = parts();
        assert!(dispatch.may_release());
        release.behind();
        assert!(!dispatch.may_release());
        release.committed(&[]);
        assert!(dispatch.may_release());
    }

    /// A saga of one step, and what is recorded of it.
    struct Records {
        plan: Arc<Plan>,
        state: SagaState,
        events: Vec<Event>,
    }

    impl Records {
        fn new() -> Self {
            let call = pb::Call {
                participant: "p".to_owned(),
                action: "do".to_owned(),
                compensation: "undo".to_owned(),
                ..pb::Call::default()
            };
            let step = pb::Step {
                name: "a".to_owned(),
                phase: pb::Phase::Compensatable.into(),
                kind: Some(pb::step::Kind::Call(call)),
                ..pb::Step::default()
            };
            let definition = pb::Definition {
                name: "test".to_owned(),
                steps: vec![step],
                ..pb::Definition::default()
            };
            Self {
                plan: Arc::new(Plan::compile(&definition).expect("a valid definition")),
                state: SagaState::new(),
                events: Vec::new(),
            }
        }

        fn happens(&mut self, command: &saga::Command) {
            let transitions = saga::decide(&self.state, command, 1_000, 7).expect("decided");
            let event = pb::SagaEvent {
                version: 0,
                event_time: Some(chassis::timestamp::from_millis(1_000)),
                transitions,
            };
            saga::evolve(&mut self.state, &event, &self.plan).expect("evolved");
            self.events.push(Event::Saga(event));
        }
    }

    #[test]
    fn what_another_replica_did_while_a_commit_was_in_doubt_is_not_missed() {
        let mut records = Records::new();
        let start = saga::Start::plain(&records.plan);
        records.happens(&saga::Command::Start(Box::new(start)));
        let action = pb::Direction::Action;
        let token = records.state.newest_attempt(0, action).expect("one").1;
        // There the attempt ran out of time; the next one is due later.
        records.happens(&saga::Command::AttemptTimedOut {
            step: 0,
            direction: action,
            token,
            cause: pb::UnknownCause::Timeout,
        });
        let stream = saga_stream("s");
        let state = State::Saga(records.state);
        let commit = |at: usize| Committed {
            stream: &stream,
            version: at as u64 + 1,
            position: at as u64 + 1,
            event: &records.events[at],
            state: &state,
            commit_millis: 1_000,
        };
        for known in [vec![commit(0)], vec![commit(0), commit(1)]] {
            let (dispatch, mut release) = parts();
            release.committed(&known);
            let awaited = dispatch.look(|hub, _| hub.awaited(&stream));
            assert_eq!(
                awaited,
                Some((0, 1)),
                "its retry is waited for, and nothing else"
            );
        }
    }
}
