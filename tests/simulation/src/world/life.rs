//! One life of a machine: from its start to its crash.

use std::sync::Arc;

use chassis::{Env, Tasks};
use coordinator::engine::Engine;
use ledger::SimulatedDisk;

use super::{World, end, process};
use crate::history::What;

/// What a process is given: its machine, as it is in this life.
#[derive(Clone)]
pub struct Life {
    /// The world.
    pub world: Arc<World>,
    /// The machine.
    pub machine: String,
    /// Which life this is, from 1.
    pub incarnation: u64,
    /// Its disk.
    pub disk: SimulatedDisk,
    /// Its clock, randomness and network.
    pub env: Env,
}

impl Life {
    /// Name of the process, as the history has it.
    pub fn by(&self) -> String {
        match self.disk.is_database() {
            true => process(&self.machine, self.incarnation),
            false => self.machine.clone(),
        }
    }

    /// Whether the machine still lives this life.
    pub fn is_current(&self) -> bool {
        self.world.network.is(&self.machine, self.incarnation)
    }

    /// Tasks that end with this life.
    pub fn adopt(&self, tasks: &Tasks) {
        if let Some(machine) = self.world.machines().get_mut(&self.machine)
            && machine.incarnation == self.incarnation
            && machine.up
        {
            machine.tasks.push(tasks.clone());
        } else {
            end(tasks);
        }
    }

    /// The coordinator of this life is open.
    pub fn serves(&self, engine: &Engine) {
        if let Some(machine) = self.world.machines().get_mut(&self.machine)
            && machine.incarnation == self.incarnation
        {
            machine.engine = Some(engine.clone());
        }
    }

    /// Writes something down, unless the machine has lost power meanwhile.
    pub fn note(&self, what: What) {
        if self.is_current() {
            self.world.history.add(what);
        }
    }
}
