//! The coordinator's decider on the ledger: sagas, definitions and participants are streams of one log.

use std::sync::Arc;

use chassis::timestamp;
use ledger::{Decision, Error, Fence, StreamId, View};
use sagamesh_api::saga::v1::{self as pb, ResultStatus, SagaEvent, Transition};

use crate::ownership::Ownership;
use crate::registry::{
    DefinitionChange, DefinitionEvent, DefinitionRecord, DefinitionRefusal, ParticipantEvent,
    ParticipantRecord, Registry,
};
use crate::saga::{self, Refusal, SagaState};

/// Kind of the streams of sagas.
pub const SAGA: &str = "saga";
/// Kind of the streams of definitions.
pub const DEFINITION: &str = "definition";
/// Kind of the streams of participants.
pub const PARTICIPANT: &str = "participant";

/// Full name of the message that sagas are recorded with.
pub const SAGA_EVENT: &str = "saga.v1.SagaEvent";

/// The stream of a saga.
pub fn saga_stream(saga_id: &str) -> StreamId {
    StreamId::of(SAGA, saga_id)
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Coordinator {
    registry: Arc<Registry>,
    ownership: Ownership,
    decide: Decide,
}

/// A function that decides about a saga, as [`saga::decide`] does: the state, a command, the time and a seed.
pub type Decide = fn(&SagaState, &saga::Command, i64, u64) -> Result<Vec<Transition>, Refusal>;

/// The state of a stream, by its kind.
#[derive(Debug)]
pub enum State {
    /// `saga/<id>`.
    Saga(SagaState),
    /// `definition/<name>`.
    Definition(DefinitionRecord),
    /// `participant/<name>`.
    Participant(ParticipantRecord),
}

/// One record.
#[derive(Debug)]
pub enum Event {
    /// Of a saga.
    Saga(SagaEvent),
    /// Of a definition.
    Definition(DefinitionEvent),
    /// Of a participant.
    Participant(ParticipantEvent),
}

/// What may be asked.
#[derive(Debug)]
pub enum Command {
    /// Something happens to a saga.
    Saga {
        /// Its stream.
        stream: StreamId,
        /// What.
        command: saga::Command,
        /// Random: for lease tokens and jitter.
        seed: u64,
        /// Whether the reply describes the saga.
        describe: bool,
    },
    /// Looks at a saga, and changes nothing.
    Read(StreamId),
    /// Takes a saga into memory, when the coordinator starts or takes a shard.
    Resume(StreamId),
    /// Does nothing; once it is answered, everything that was asked before is done.
    Flush,
    /// Changes a definition.
    Definition(StreamId, DefinitionChange),
    /// Changes a participant.
    Participant(StreamId, ParticipantEvent),
}

/// What a caller gets.
#[derive(Debug)]
pub enum Reply {
    /// A saga, and whether this command changed it.
    Saga {
        /// The saga after the command; only if it was asked for, or if a start met a saga that has ended.
        saga: Option<Box<pb::Saga>>,
        /// Whether something was recorded.
        changed: bool,
    },
    /// A saga that was taken into memory.
    Resumed(Box<SagaState>),
    /// What became of a participant's result.
    Result(ResultStatus),
    /// A definition or participant was changed, or it was so already.
    Done,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// By a saga.
    #[error(transparent)]
    Saga(#[from] Refusal),
    /// By a definition.
    #[error(transparent)]
    Definition(#[from] DefinitionRefusal),
    /// Another replica owns this shard, and alone writes to its sagas.
    #[error("the saga belongs to shard {0}, which another replica owns")]
    Elsewhere(i64),
    /// The saga's definition is not known here, or not yet: another replica may have registered it a moment ago.
    #[error("the saga's definition is not known to this replica: its record cannot be read")]
    Unprepared,
    /// The stream is of another kind than the command; a bug.
    #[error("the command does not fit the stream")]
    Misdirected,
}

impl Coordinator {
    /// A decider that finds plans in `registry` and writes to the sagas of the shards that it owns.
    pub fn new(registry: Arc<Registry>, ownership: Ownership) -> Self {
        Self::deciding(registry, ownership, saga::decide)
    }

    /// The same with another function that decides.
    pub fn deciding(registry: Arc<Registry>, ownership: Ownership, decide: Decide) -> Self {
        Self {
            registry,
            ownership,
            decide,
        }
    }

    /// The lease under which a command may change a saga; `None` if it can change nothing.
    fn lease(
        &self,
        state: &SagaState,
        command: &saga::Command,
    ) -> Result<Option<Fence>, Rejection> {
        if state.is_unreadable() && self.ownership.is_shared() {
            return Err(Rejection::Unprepared);
        }
        let shard = match (state.shard(), command) {
            // Starting again, and whatever comes after the end, is answered by anyone.
            (Some(_), saga::Command::Start(_)) => return Ok(None),
            (Some(_), _) if state.has_ended() => return Ok(None),
            (Some(shard), _) => shard,
            (None, saga::Command::Start(start)) => start.shard,
            (None, _) => return Ok(None),
        };
        let lease = self.ownership.fence(shard);
        lease.map(Some).ok_or(Rejection::Elsewhere(shard))
    }

    fn decide_saga(
        &self,
        state: &SagaState,
        stream: &StreamId,
        (command, seed, describe): (&saga::Command, u64, bool),
        now: i64,
    ) -> Result<Decision<Event, Reply>, Rejection> {
        let decided = (self.decide)(state, command, now, seed);
        if matches!(command, saga::Command::Result(_))
            && !matches!(decided, Err(Refusal::Corrupt(_) | Refusal::Newer(_)))
        {
            let reply = Reply::Result(saga::result_status(&decided));
            // A refusal that is an answer to the participant, with its sentence, stays a refusal.
            return Ok(record(stream, decided?, now, reply));
        }
        let transitions = decided?;
        let changed = !transitions.is_empty();
        let event = changed.then(|| saga_event(transitions, now));
        let shown = describe || (!changed && state.has_ended());
        let saga = shown.then(|| Box::new(self.after(state, stream, event.as_ref())));
        let decision = Decision::new(Reply::Saga { saga, changed });
        Ok(match event {
            Some(event) => decision.event(stream.clone(), Event::Saga(event)),
            None => decision,
        })
    }

    /// The saga as it is after `event`.
    fn after(&self, state: &SagaState, stream: &StreamId, event: Option<&SagaEvent>) -> pb::Saga {
        let Some(event) = event else {
            return saga::describe(stream.key(), state);
        };
        let mut state = state.clone();
        // A fault is kept in the state, and described by it.
        drop(saga::evolve(&mut state, event, &*self.registry));
        saga::describe(stream.key(), &state)
    }
}

fn saga_event(transitions: Vec<Transition>, now: i64) -> SagaEvent {
    SagaEvent {
        version: 0,
        event_time: Some(timestamp::from_millis(now)),
        transitions,
    }
}

fn record(
    stream: &StreamId,
    transitions: Vec<Transition>,
    now: i64,
    reply: Reply,
) -> Decision<Event, Reply> {
    let decision = Decision::new(reply);
    if transitions.is_empty() {
        decision
    } else {
        decision.event(stream.clone(), Event::Saga(saga_event(transitions, now)))
    }
}

impl ledger::Decider for Coordinator {
    type State = State;
    type Event = Event;
    type Command = Command;
    type Reply = Reply;
    type Rejection = Rejection;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        match command {
            Command::Saga { stream, .. }
            | Command::Read(stream)
            | Command::Resume(stream)
            | Command::Definition(stream, _)
            | Command::Participant(stream, _) => vec![stream.clone()],
            Command::Flush => Vec::new(),
        }
    }

    fn expects_new(&self, command: &Command) -> bool {
        matches!(
            command,
            Command::Saga {
                command: saga::Command::Start(_),
                ..
            }
        )
    }

    fn initial(&self, stream: &StreamId) -> State {
        match stream.kind() {
            DEFINITION => State::Definition(DefinitionRecord::default()),
            PARTICIPANT => State::Participant(ParticipantRecord::default()),
            _ => State::Saga(SagaState::new()),
        }
    }

    fn evolve(&self, state: &mut State, event: &Event) {
        match (state, event) {
            (State::Saga(state), Event::Saga(event)) => {
                if let Err(fault) = saga::evolve(state, event, &*self.registry) {
                    tracing::error!(%fault, "a saga's history does not fit its definition: it cannot go on");
                }
            }
            (State::Definition(record), Event::Definition(event)) => {
                record.evolve(event, &self.registry)
            }
            (State::Participant(record), Event::Participant(event)) => record.evolve(event),
            (_, event) => tracing::error!(
                ?event,
                "an event is in a stream of another kind; it is left out"
            ),
        }
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now_millis: i64,
    ) -> Result<Decision<Event, Reply>, Rejection> {
        match command {
            Command::Saga {
                stream,
                command,
                seed,
                describe,
            } => match view.state(stream) {
                State::Saga(state) => {
                    let lease = self.lease(state, command)?;
                    let decision =
                        self.decide_saga(state, stream, (command, *seed, *describe), now_millis)?;
                    match (lease, decision.events.is_empty()) {
                        (Some(lease), _) => Ok(decision.fenced(lease)),
                        (None, true) => Ok(decision),
                        (None, false) => {
                            let shard = state.shard().unwrap_or_default();
                            let lease = self.ownership.fence(shard);
                            Ok(decision.fenced(lease.ok_or(Rejection::Elsewhere(shard))?))
                        }
                    }
                }
                _ => Err(Rejection::Misdirected),
            },
            Command::Read(stream) => match view.state(stream) {
                State::Saga(state) if state.exists() => {
                    let saga = Box::new(saga::describe(stream.key(), state));
                    Ok(Decision::new(Reply::Saga {
                        saga: Some(saga),
                        changed: false,
                    }))
                }
                State::Saga(_) => Err(Refusal::NotStarted.into()),
                _ => Err(Rejection::Misdirected),
            },
            Command::Resume(stream) => match view.state(stream) {
                State::Saga(state) if state.is_unreadable() && self.ownership.is_shared() => {
                    Err(Rejection::Unprepared)
                }
                State::Saga(state) => Ok(Decision::new(Reply::Resumed(Box::new(state.clone())))),
                _ => Err(Rejection::Misdirected),
            },
            Command::Flush => Ok(Decision::new(Reply::Done)),
            Command::Definition(stream, change) => match view.state(stream) {
                State::Definition(record) => {
                    let event = record.decide(change, now_millis)?;
                    Ok(Decision::new(Reply::Done).events(stream, event.map(Event::Definition)))
                }
                _ => Err(Rejection::Misdirected),
            },
            Command::Participant(stream, event) => match view.state(stream) {
                State::Participant(record) => {
                    let event = record.changes(event).then(|| event.clone());
                    Ok(Decision::new(Reply::Done).events(stream, event.map(Event::Participant)))
                }
                _ => Err(Rejection::Misdirected),
            },
        }
    }

    fn encode(&self, event: &Event, buffer: &mut Vec<u8>) -> &'static str {
        // Writing to a Vec cannot fail: it grows.
        fn put(
            message: &impl prost::Message,
            buffer: &mut Vec<u8>,
            name: &'static str,
        ) -> &'static str {
            message.encode_raw(buffer);
            name
        }
        match event {
            Event::Saga(event) => put(event, buffer, SAGA_EVENT),
            Event::Definition(DefinitionEvent::Registered(event)) => {
                put(&**event, buffer, "saga.v1.DefinitionRegistered")
            }
            Event::Definition(DefinitionEvent::Activated(event)) => {
                put(event, buffer, "saga.v1.DefinitionActivated")
            }
            Event::Definition(DefinitionEvent::Paused(event)) => {
                put(event, buffer, "saga.v1.DefinitionPaused")
            }
            Event::Definition(DefinitionEvent::Resumed(event)) => {
                put(event, buffer, "saga.v1.DefinitionResumed")
            }
            Event::Definition(DefinitionEvent::Deleted(event)) => {
                put(event, buffer, "saga.v1.DefinitionDeleted")
            }
            Event::Participant(ParticipantEvent::Put(event)) => {
                put(event, buffer, "saga.v1.ParticipantPut")
            }
            Event::Participant(ParticipantEvent::Paused(event)) => {
                put(event, buffer, "saga.v1.ParticipantPaused")
            }
            Event::Participant(ParticipantEvent::Resumed(event)) => {
                put(event, buffer, "saga.v1.ParticipantResumed")
            }
        }
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<Event, Error> {
        fn get<M: prost::Message + Default>(type_name: &str, data: &[u8]) -> Result<M, Error> {
            M::decode(data).map_err(|error| Error::decode(type_name, error))
        }
        Ok(match type_name {
            SAGA_EVENT => Event::Saga(get(type_name, data)?),
            "saga.v1.DefinitionRegistered" => {
                Event::Definition(DefinitionEvent::Registered(Box::new(get(type_name, data)?)))
            }
            "saga.v1.DefinitionActivated" => {
                Event::Definition(DefinitionEvent::Activated(get(type_name, data)?))
            }
            "saga.v1.DefinitionPaused" => {
                Event::Definition(DefinitionEvent::Paused(get(type_name, data)?))
            }
            "saga.v1.DefinitionResumed" => {
                Event::Definition(DefinitionEvent::Resumed(get(type_name, data)?))
            }
            "saga.v1.DefinitionDeleted" => {
                Event::Definition(DefinitionEvent::Deleted(get(type_name, data)?))
            }
            "saga.v1.ParticipantPut" => {
                Event::Participant(ParticipantEvent::Put(get(type_name, data)?))
            }
            "saga.v1.ParticipantPaused" => {
                Event::Participant(ParticipantEvent::Paused(get(type_name, data)?))
            }
            "saga.v1.ParticipantResumed" => {
                Event::Participant(ParticipantEvent::Resumed(get(type_name, data)?))
            }
            other => return Err(Error::decode(other, "this program knows no such event")),
        })
    }

    fn weight(&self, state: &State) -> usize {
        match state {
            State::Saga(state) => state.kept_bytes(),
            State::Definition(_) | State::Participant(_) => 0,
        }
    }

    fn fenced_off(&self, fence: Fence) {
        if self.ownership.lose(fence) {
            tracing::warn!(
                shard = fence.shard,
                epoch = fence.epoch,
                "the lease of a shard is over: nothing was written"
            );
        }
    }

    fn forget(&self, state: &State) -> bool {
        // What cannot be read yet is read again.
        matches!(state, State::Saga(state) if state.has_ended() || state.is_unreadable())
    }
}
