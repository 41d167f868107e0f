//! What really happened, read from the disks themselves.

use std::collections::BTreeMap;

use ledger::Recorded;
use sagamesh_api::saga::v1::{SagaEvent, SagaState, transition::Kind};

use crate::nodes::effects::{self, DONE};
use crate::world::{COORDINATOR, World};

/// Whether a step's action took effect and was not undone.
pub fn was_done(world: &World, saga: &str, step: &str) -> bool {
    let stream = effects::stream(saga, step);
    let disks = world.setup.participants.iter();
    let events = disks
        .filter_map(|name| world.disk(name))
        .flat_map(|disk| disk.events());
    let last = events.filter(|event| event.stream == stream).last();
    last.is_some_and(|event| event.type_name == DONE)
}

/// Sagas on the coordinator's disk, by id: how each ended, or that it is open.
pub fn sagas(world: &World) -> BTreeMap<String, Option<SagaState>> {
    let events = world.disk(COORDINATOR).map(|disk| disk.events());
    let mut sagas = BTreeMap::new();
    for event in events.unwrap_or_default() {
        let Some((saga, record)) = saga_event(&event) else {
            continue;
        };
        let ended = record
            .transitions
            .iter()
            .find_map(|transition| match &transition.kind {
                Some(Kind::Ended(ended)) => Some(ended.state()),
                _ => None,
            });
        let state = sagas.entry(saga.to_owned()).or_default();
        if ended.is_some() {
            *state = ended;
        }
    }
    sagas
}

/// The saga of an event, and the event, if it is one of a saga.
pub fn saga_event(event: &Recorded) -> Option<(&str, SagaEvent)> {
    (event.stream.kind() == "saga")
        .then(|| Some((event.stream.key(), event.message().ok()?)))
        .flatten()
}
