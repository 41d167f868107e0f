//! Everything that happened, in order: what the promises are checked against, and what a replay must repeat.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ledger::Recorded;
use payments::domain::Operation;
use sagamesh_api::saga::v1::{Direction, SagaEvent, transition};
use tokio::time::Instant;

use crate::dice::fnv;
use crate::truth::saga_event;

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Milliseconds since the simulation began.
    pub at: u64,
    /// What.
    pub what: What,
}

/// Kinds of things that happen.
#[derive(Clone, Debug)]
pub enum What {
    /// Events became durable on a machine's disk.
    Durable {
        /// The machine that the disk belongs to.
        machine: String,
        /// The process that wrote them.
        by: String,
        /// The events.
        events: Vec<Recorded>,
    },
    /// A process knows that everything up to a position is durable: it was told so, or has read it.
    Known {
        /// The process.
        by: String,
        /// The position.
        position: u64,
    },
    /// A process owns a shard from now on, in the database.
    Owns {
        /// The process.
        by: String,
        /// The shard.
        shard: i64,
        /// Its epoch.
        epoch: i64,
    },
    /// Nobody owns a shard any more, in the database.
    Disowned {
        /// The shard.
        shard: i64,
    },
    /// A coordinator wrote a command to a participant's stream.
    Released {
        /// The coordinator's process.
        by: String,
        /// The command.
        told: Told,
    },
    /// A participant's handler began with a command.
    Delivered(Told),
    /// A participant's handler answered a command: `success`, `rejected`, ...
    Answered(Told, &'static str),
    /// A client was told that its saga was started.
    Acknowledged {
        /// The saga.
        saga: String,
    },
    /// A customer was told that an order was taken.
    Ordered {
        /// The order.
        order: String,
    },
    /// The bank did something for the first time.
    Banked {
        /// The payment, which is named as the order.
        payment: String,
        /// What.
        operation: Operation,
        /// Whether it said yes.
        approved: bool,
    },
    /// A watcher saw an event of a saga.
    Watched {
        /// The watcher.
        watcher: usize,
        /// The saga.
        saga: String,
        /// The event's version.
        version: u64,
        /// Hash of the event.
        hash: u64,
    },
    /// A watcher's stream ended as it should: the saga is over.
    WatchedToTheEnd {
        /// The watcher.
        watcher: usize,
        /// The saga.
        saga: String,
    },
    /// An open saga has had neither attempt nor timer nor need of a person for too long.
    Forgotten {
        /// The saga.
        saga: String,
    },
    /// A fault was injected.
    Fault(String),
    /// Something went wrong that no fault explains.
    Broken(String),
    /// Anything else that a reader of the history wants to know.
    Note(String),
}

/// A command, as far as promises speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The saga.
    pub saga: String,
    /// The step.
    pub step: String,
    /// Action or compensation.
    pub direction: Direction,
    /// The attempt's lease token.
    pub token: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            saga, step, token, ..
        } = self;
        write!(f, "{saga}/{step} {:?} {token:016x}", self.direction)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8} ", self.at)?;
        match &self.what {
            What::Durable {
                machine,
                by,
                events,
            } => {
                write!(f, "{machine} durable, by {by}:")?;
                for event in events {
                    let hash = fnv(0, &event.data) >> 32;
                    write!(f, " {}#{}:{hash:08x}", event.stream, event.version)?;
                    if let Some((_, event)) = saga_event(event) {
                        write!(f, " ({})", happened(&event))?;
                    }
                }
                Ok(())
            }
            What::Known { by, position } => write!(f, "{by} knows {position}"),
            What::Owns { by, shard, epoch } => write!(f, "{by} owns shard {shard}, epoch {epoch}"),
            What::Disowned { shard } => write!(f, "nobody owns shard {shard}"),
            What::Released { by, told } => write!(f, "{by} released {told}"),
            What::Delivered(told) => write!(f, "delivered {told}"),
            What::Answered(told, how) => write!(f, "answered {told} {how}"),
            What::Acknowledged { saga } => write!(f, "acknowledged {saga}"),
            What::Ordered { order } => write!(f, "ordered {order}"),
            What::Banked {
                payment,
                operation,
                approved,
            } => write!(f, "bank: {operation:?} {payment}: {approved}"),
            What::Watched {
                watcher,
                saga,
                version,
                hash,
            } => write!(f, "watcher {watcher} saw {saga}#{version}:{hash:016x}"),
            What::WatchedToTheEnd { watcher, saga } => {
                write!(f, "watcher {watcher} saw the end of {saga}")
            }
            What::Forgotten { saga } => write!(f, "nobody cares for {saga}"),
            What::Fault(what) => write!(f, "fault: {what}"),
            What::Broken(what) => write!(f, "broken: {what}"),
            What::Note(what) => f.write_str(what),
        }
    }
}

/// The names of what happened to a saga.
fn happened(event: &SagaEvent) -> String {
    let kinds = event.transitions.iter().flat_map(|one| &one.kind);
    let name = |kind: &transition::Kind| {
        let whole = format!("{kind:?}");
        whole.split('(').next().unwrap_or_default().to_owned()
    };
    kinds.map(name).collect::<Vec<_>>().join(", ")
}

/// The history of one simulation, while it is written.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    entries: Mutex<Vec<Entry>>,
    /// Hash of every message that the network delivered, with its time.
    network: Mutex<u64>,
}

impl Recorder {
    /// An empty history of a simulation that begins at `started`.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            entries: Mutex::default(),
            network: Mutex::default(),
        }
    }

    /// Milliseconds since the simulation began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes something down.
    pub fn add(&self, what: What) {
        let at = self.now();
        self.entries().push(Entry { at, what });
    }

    /// Notes that the network delivered something.
    pub fn delivered(&self, connection: u64, forth: bool) {
        let mut hash = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        for part in [self.now(), connection, u64::from(forth)] {
            *hash = fnv(*hash, &part.to_be_bytes());
        }
    }

    /// What was written down so far.
    pub fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The history, and the hash of what the network did.
    pub fn finish(&self) -> (Vec<Entry>, u64) {
        let network = *self.network.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut *self.entries()), network)
    }
}
