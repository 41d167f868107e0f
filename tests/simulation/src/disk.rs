//! How the disk of a machine behaves, and what is seen of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ledger::{DiskScript, Fate, Fault, Recorded};

use crate::history::What;
use crate::world::{Point, World};

/// The disk of one machine.
pub struct MachineDisk {
    world: Weak<World>,
    machine: String,
}

impl MachineDisk {
    /// The script of a machine's disk.
    pub fn script(world: &Arc<World>, machine: &str) -> Arc<dyn DiskScript> {
        Arc::new(Self {
            world: Arc::downgrade(world),
            machine: machine.to_owned(),
        })
    }
}

/// How a commit goes.
pub fn fate(world: &World, machine: &str) -> Fate {
    let dice = &world.disks;
    let faults = world.setup.faults.disk && !world.is_calm();
    let slow = if faults && dice.happens(10) { 400 } else { 2 };
    let fault = match dice.below(1_000) {
        0..10 if faults => Some(Fault::BeforeTaking),
        10..20 if faults => Some(Fault::AfterTaking),
        _ => None,
    };
    if let Some(fault) = fault {
        world.fault(format!("{machine}: commit {fault:?}"));
    }
    Fate {
        before: dice.millis(0, slow),
        after: Duration::from_millis(if faults { dice.below(2) } else { 0 }),
        fault,
    }
}

impl DiskScript for MachineDisk {
    fn begin(&self) -> Fate {
        let Some(world) = self.world.upgrade() else {
            return Fate::default();
        };
        world.reached(&self.machine, Point::Write);
        fate(&world, &self.machine)
    }

    fn taken(&self, events: &[Recorded]) {
        let Some(world) = self.world.upgrade() else {
            return;
        };
        if !events.is_empty() {
            world.history.add(What::Durable {
                machine: self.machine.clone(),
                by: self.machine.clone(),
                events: events.to_vec(),
            });
        }
        world.reached(&self.machine, Point::Taken);
    }

    fn known(&self, position: u64) {
        if let Some(world) = self.world.upgrade() {
            world.history.add(What::Known {
                by: self.machine.clone(),
                position,
            });
        }
    }
}
