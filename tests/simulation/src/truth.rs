//! What really happened, read from the disks themselves.

use ledger::Recorded;
use participant::Direction;
use participant::barrier::{self, Key, RecordedOutcome};
use sagamesh_api::saga::v1::SagaEvent;

use crate::world::World;

/// What the participants' barriers have on record of a step in a direction.
pub fn recorded(
    world: &World,
    saga: &str,
    step: &str,
    direction: Direction,
) -> Option<RecordedOutcome> {
    let key = Key {
        saga_id: saga.to_owned(),
        step: step.to_owned(),
        direction,
        not_after: None,
    };
    let [action, compensation] = barrier::inbox::keys(&key);
    let row = match direction {
        Direction::Compensation => compensation,
        _ => action,
    };
    let mut machines = world.names().into_iter();
    let row = machines.find_map(|name| world.disk(&name)?.inbox_row(&row))?;
    RecordedOutcome::from_bytes(&row).ok()
}

/// The saga of an event, and the event, if it is one of a saga.
pub fn saga_event(event: &Recorded) -> Option<(&str, SagaEvent)> {
    (event.stream.kind() == "saga")
        .then(|| Some((event.stream.key(), event.message().ok()?)))
        .flatten()
}
