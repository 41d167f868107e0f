//! What a simulation consists of.

use std::time::Duration;

use crate::bugs::Bug;

/// Machines, load, faults, and a planted bug.
#[derive(Clone, Debug)]
pub struct Setup {
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
        match seed % 3 {
            0 => Self::shop(),
            _ => Self::default(),
        }
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

impl Default for Setup {
    fn default() -> Self {
        Self {
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
