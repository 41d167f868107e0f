//! What a simulation consists of.

use std::time::Duration;

use crate::bugs::Bug;
use crate::dice::Dice;
use crate::world::{COORDINATOR, DATABASE};

/// Machines, load, faults, and a planted bug.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many replicas the coordinator has. One has its log on its own disk; several share a database.
    pub replicas: u64,
    /// Names of the participants, each a machine of its own.
    pub participants: Vec<String>,
    /// How many sagas clients start.
    pub sagas: u64,
    /// How many orders clients place; with any, the shop's services run.
    pub orders: u64,
    /// How long faults are injected.
    pub chaos: Duration,
    /// Which faults.
    pub faults: Faults,
    /// What is wrong on purpose.
    pub bug: Option<Bug>,
    /// One machine stops at one point.
    pub stop: Option<Stop>,
    /// Definitions to use instead of random ones, and how their steps behave.
    pub script: Option<crate::points::Script>,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Machines crash at any point.
    pub crashes: bool,
    /// Partitions, broken connections, slow networks.
    pub network: bool,
    /// Commits fail, are not answered, or take long; disks run full.
    pub disk: bool,
    /// Clocks jump.
    pub clocks: bool,
    /// Handlers are slow, say no, fail, do not know; commands come twice and late.
    pub participants: bool,
    /// Operators act, definitions are upgraded, sagas are cancelled.
    pub people: bool,
}

impl Faults {
    /// All of them.
    pub const ALL: Self = Self {
        crashes: true,
        network: true,
        disk: true,
        clocks: true,
        participants: true,
        people: true,
    };
    /// None.
    pub const NONE: Self = Self {
        crashes: false,
        network: false,
        disk: false,
        clocks: false,
        participants: false,
        people: false,
    };
}

/// A machine loses power at the n-th time that it reaches any point, and comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which machine.
    pub machine: String,
    /// At which point, counted from 1.
    pub at: u64,
}

impl Setup {
    /// What the simulation of a seed consists of: every third has the shop.
    pub fn of_seed(seed: u64) -> Self {
        let setup = match seed % 3 {
            0 => Self::shop(),
            _ => Self::default(),
        };
        setup.with_replicas_of(seed)
    }

    /// The same with as many replicas of the coordinator as a seed has: one for every fourth of them, mostly.
    pub fn with_replicas_of(self, seed: u64) -> Self {
        let replicas = match Dice::named(seed, "replicas").below(8) {
            0..2 => 1,
            2..5 => 2,
            _ => 3,
        };
        Self { replicas, ..self }
    }

    /// Machines that the coordinator runs on.
    pub fn coordinators(&self) -> Vec<String> {
        match self.replicas {
            1 => vec![COORDINATOR.to_owned()],
            many => (0..many).map(|at| format!("{COORDINATOR}-{at}")).collect(),
        }
    }

    /// The machine whose disk has the coordinator's log.
    pub fn log(&self) -> &'static str {
        match self.replicas {
            1 => COORDINATOR,
            _ => DATABASE,
        }
    }

    /// Where a participant opens its first streams: at all replicas of the coordinator, or at one of them, which names the others.
    pub fn streams_of(&self, seed: u64, participant: &str) -> String {
        let dice = Dice::named(seed, &format!("streams of {participant}"));
        let all = self.coordinators();
        let urls: Vec<String> = match dice.pick(&all).filter(|_| dice.happens(500)) {
            Some(one) => vec![url(one)],
            None => all.iter().map(|machine| url(machine)).collect(),
        };
        urls.join(",")
    }

    /// The shop's own services, and a participant for the mails that it sends.
    pub fn shop() -> Self {
        Self {
            participants: vec!["notifications".to_owned()],
            sagas: 0,
            orders: 20,
            ..Self::default()
        }
    }
}

/// Address of a machine's process.
pub fn url(machine: &str) -> String {
    format!("http://{machine}:50051")
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            replicas: 1,
            participants: ["alpha", "beta"].map(str::to_owned).to_vec(),
            sagas: 25,
            orders: 0,
            chaos: Duration::from_secs(60),
            faults: Faults::ALL,
            bug: None,
            stop: None,
            script: None,
        }
    }
}
