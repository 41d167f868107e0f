//! Looks at every open saga once a second: somebody must care for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use coordinator::decider::saga_stream;
use sagamesh_api::saga::v1::{SagaEvent, transition::Kind};

use crate::history::What;
use crate::truth::saga_event;
use crate::world::{COORDINATOR, World};

/// So many looks in a row at which nobody cares are too many. A command of the coordinator's own may wait for a disk meanwhile.
const LOOKS: u32 = 15;

/// What is known of open sagas. Clones are the same.
#[derive(Clone, Default)]
pub struct Audit(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    read: usize,
    open: BTreeMap<String, Open>,
    known: usize,
}

#[derive(Default)]
struct Open {
    shard: i64,
    /// Steps that wait for a person.
    attention: BTreeSet<String>,
    uncared: u32,
}

impl Audit {
    /// Looks until the simulation ends.
    pub async fn run(self, world: Arc<World>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.look(&world);
        }
    }

    /// How many sagas there are, and how many of them are open.
    pub fn count(&self, world: &World) -> (usize, usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.read(world);
        (state.known, state.open.len())
    }

    fn look(&self, world: &World) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.read(world);
        let Some(log) = world.disk(world.setup.log()) else {
            return;
        };
        for (saga, open) in &mut state.open {
            let owner = match world.setup.replicas {
                1 => Some(COORDINATOR.to_owned()),
                _ => log.owner(open.shard),
            };
            // While nobody owns it, or its owner takes in what it got, or hands it over, there is nobody to ask; in the end it must have ended all the same.
            let Some(engine) = owner.and_then(|owner| world.engine(&owner)) else {
                open.uncared = 0;
                continue;
            };
            let stream = saga_stream(saga);
            let (resumed, awaited) = engine
                .dispatch
                .look(|hub, _| (hub.is_resumed(open.shard), hub.awaited(&stream)));
            if !resumed {
                open.uncared = 0;
                continue;
            }
            let cared = match awaited {
                Some((0, 0)) => !open.attention.is_empty(),
                Some(_) => true,
                None => false,
            };
            open.uncared = if cared { 0 } else { open.uncared + 1 };
            if open.uncared == LOOKS {
                world.history.add(What::Forgotten { saga: saga.clone() });
            }
        }
    }
}

impl State {
    /// Takes in what became durable since the last look.
    fn read(&mut self, world: &World) {
        let entries = world.history.entries();
        for entry in &entries[self.read..] {
            let What::Durable {
                machine, events, ..
            } = &entry.what
            else {
                continue;
            };
            if machine != world.setup.log() {
                continue;
            }
            for (saga, event) in events.iter().filter_map(saga_event) {
                if !self.open.contains_key(saga) {
                    self.known += 1;
                }
                let open = self.open.entry(saga.to_owned()).or_default();
                if open.apply(&event) {
                    self.open.remove(saga);
                }
            }
        }
        self.read = entries.len();
    }
}

impl Open {
    /// Whether the saga has ended.
    fn apply(&mut self, event: &SagaEvent) -> bool {
        for transition in &event.transitions {
            match &transition.kind {
                Some(Kind::Started(started)) => self.shard = started.shard,
                Some(Kind::Parked(parked)) => drop(self.attention.insert(parked.step.clone())),
                Some(Kind::Stalled(stalled)) => drop(self.attention.insert(stalled.step.clone())),
                Some(Kind::Succeeded(done)) => drop(self.attention.remove(&done.step)),
                Some(Kind::OperatorActed(acted)) => drop(self.attention.remove(&acted.step)),
                Some(Kind::Aborted(_)) => self.attention.clear(),
                Some(Kind::Ended(_)) => return true,
                _ => {}
            }
        }
        false
    }
}
