//! The database that replicas of the coordinator share: a machine of its own, which each of their processes reaches over the network.

use std::sync::{Arc, Weak};

use futures_util::future::{BoxFuture, FutureExt as _};
use ledger::{DiskScript, Fate, Mistake, Recorded};

use crate::bugs;
use crate::disk::fate;
use crate::history::What;
use crate::world::{DATABASE, Point, World, process};

/// The database, as one process reaches it.
pub struct Reached {
    world: Weak<World>,
    machine: String,
    incarnation: u64,
    by: String,
}

impl Reached {
    /// The script of one process's connections.
    pub fn script(world: &Arc<World>, machine: &str, incarnation: u64) -> Arc<dyn DiskScript> {
        Arc::new(Self {
            world: Arc::downgrade(world),
            machine: machine.to_owned(),
            incarnation,
            by: process(machine, incarnation),
        })
    }

    fn add(&self, what: What) {
        if let Some(world) = self.world.upgrade() {
            world.history.add(what);
        }
    }
}

impl DiskScript for Reached {
    fn begin(&self) -> Fate {
        let Some(world) = self.world.upgrade() else {
            return Fate::default();
        };
        if !world.network.is(&self.machine, self.incarnation) {
            return Fate::default();
        }
        world.reached(&self.machine, Point::Write);
        fate(&world, DATABASE)
    }

    fn taken(&self, events: &[Recorded]) {
        let Some(world) = self.world.upgrade() else {
            return;
        };
        if !events.is_empty() {
            world.history.add(What::Durable {
                machine: DATABASE.to_owned(),
                by: self.by.clone(),
                events: events.to_vec(),
            });
        }
        if world.network.is(&self.machine, self.incarnation) {
            world.reached(&self.machine, Point::Taken);
        }
        world.reached(DATABASE, Point::Taken);
    }

    fn known(&self, position: u64) {
        self.add(What::Known {
            by: self.by.clone(),
            position,
        });
    }

    fn travel(&self, back: bool) -> BoxFuture<'_, bool> {
        async move {
            let Some(network) = self.world.upgrade().map(|world| world.network.clone()) else {
                return false;
            };
            let me = (&*self.machine, self.incarnation);
            network.carry(me, DATABASE, back).await
        }
        .boxed()
    }

    fn owns(&self, shard: i64, epoch: Option<i64>) {
        self.add(match epoch {
            Some(epoch) => What::Owns {
                by: self.by.clone(),
                shard,
                epoch,
            },
            None => What::Disowned { shard },
        });
    }

    fn mistake(&self) -> Option<Mistake> {
        bugs::mistake(self.world.upgrade()?.setup.bug?)
    }
}
