//! What a participant's database holds: what was done and undone, for each saga and step, on the ledger behind the barrier.

use ledger::{Decider, Decision, Error, StreamId, View};
use participant::barrier::Key;
use participant::ledger_barrier::{self, Entry};
use participant::{Direction, Outcome};

/// Type of the event that something was done.
pub const DONE: &str = "simulation.Done";
/// Type of the event that something was undone.
pub const UNDONE: &str = "simulation.Undone";

/// The decider.
#[derive(Clone, Copy, Debug)]
pub struct Effects {
    /// Whether commands pass the barrier, as they must.
    pub barrier: bool,
    /// Whether it is recorded when there was nothing to undo.
    pub void: bool,
}

/// Do or undo.
#[derive(Clone, Debug)]
pub struct Command {
    /// What, and whether it was done before.
    pub key: Key,
    /// What the business says to it.
    pub says: Outcome,
}

impl Command {
    fn stream(&self) -> StreamId {
        stream(&self.key.saga_id, &self.key.step)
    }
}

/// The stream of a step's effects.
pub fn stream(saga: &str, step: &str) -> StreamId {
    StreamId::of("effect", format!("{saga}/{step}"))
}

/// Saga and step of a stream of effects.
pub fn step_of(stream: &StreamId) -> Option<(&str, &str)> {
    stream.as_str().strip_prefix("effect/")?.split_once('/')
}

impl Decider for Effects {
    type State = ();
    type Event = Direction;
    type Command = Command;
    type Reply = Outcome;
    type Rejection = String;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        vec![command.stream()]
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        match self.barrier {
            true => ledger_barrier::keys(&command.key),
            false => Vec::new(),
        }
    }

    fn initial(&self, _stream: &StreamId) {}

    fn evolve(&self, _state: &mut (), _event: &Direction) {}

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now_millis: i64,
    ) -> Result<Decision<Direction, Outcome>, String> {
        let mut rows = Vec::new();
        if self.barrier {
            let entry = ledger_barrier::check(view, &command.key, now_millis)
                .map_err(|error| error.to_string())?;
            match entry {
                Entry::Answer(outcome, rows) => {
                    let rows = if self.void { rows } else { Vec::new() };
                    return Ok(ledger_barrier::answer(outcome, rows));
                }
                Entry::Proceed => rows = ledger_barrier::record(&command.key, &command.says),
            }
        }
        let decision = ledger_barrier::answer(command.says.clone(), rows);
        Ok(match &command.says {
            Outcome::Success(_) => decision.event(command.stream(), command.key.direction),
            _ => decision,
        })
    }

    fn encode(&self, event: &Direction, _buffer: &mut Vec<u8>) -> &'static str {
        match event {
            Direction::Compensation => UNDONE,
            _ => DONE,
        }
    }

    fn decode(&self, type_name: &str, _data: &[u8]) -> Result<Direction, Error> {
        match type_name {
            DONE => Ok(Direction::Action),
            UNDONE => Ok(Direction::Compensation),
            other => Err(Error::decode(other, "no effect")),
        }
    }
}
