//! The simulated world: machines that run real processes, and everything around them.

mod life;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use chassis::env::SeededEntropy;
use chassis::{Env, Tasks};
use coordinator::engine::Engine;
use ledger::{Ledger, SimulatedDisk};
use tokio::time::Instant;

use crate::clock::MachineClock;
use crate::database::Reached;
use crate::dice::{Dice, mix};
use crate::disk::MachineDisk;
use crate::history::{Recorder, What};
use crate::network::Network;
use crate::nodes::effects::{Command, Effects};
use crate::nodes::{self, Program};
use crate::setup::Setup;

pub use life::Life;

/// Name of the coordinator's machine, or of the service that its replicas are behind.
pub const COORDINATOR: &str = "coordinator";
/// Name of the machine with the database that replicas of the coordinator share.
pub const DATABASE: &str = "database";

/// Name of a process.
pub fn process(machine: &str, incarnation: u64) -> String {
    format!("{machine}/{incarnation}")
}

/// Points at which a machine can be stopped: between any two of them it only computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// It is about to write to its disk.
    Write,
    /// A write has become durable, and it does not know yet.
    Taken,
    /// It is about to send something.
    Send,
}

/// See the module's documentation.
pub struct World {
    /// What chance is made of.
    pub seed: u64,
    /// What there is.
    pub setup: Setup,
    /// What happened.
    pub history: Arc<Recorder>,
    /// The network.
    pub network: Network,
    /// Chance of disks.
    pub disks: Dice,
    /// Chance of handlers.
    pub hands: Dice,
    started: Instant,
    machines: Mutex<BTreeMap<String, Machine>>,
    /// Databases of participants, as they are open now.
    effects: Mutex<BTreeMap<String, Ledger<Effects>>>,
    /// Tokens of commands that were answered with "nothing was done, nor will be".
    void: Mutex<BTreeSet<u64>>,
    calm: AtomicBool,
    faults: AtomicU64,
    /// Points that machines had reached when the first saga was about to be started.
    before: OnceLock<BTreeMap<String, u64>>,
    me: OnceLock<Weak<World>>,
}

struct Machine {
    program: Program,
    disk: SimulatedDisk,
    clock: Arc<MachineClock>,
    incarnation: u64,
    up: bool,
    tasks: Vec<Tasks>,
    engine: Option<Engine>,
    /// Crashes when this many more points are reached, and comes back after the time.
    trap: Option<(u64, Duration)>,
    points: u64,
}

fn end(tasks: &Tasks) {
    tasks.begin_drain();
    tasks.token().cancel();
}

impl World {
    /// A world without machines. Needs a runtime with a paused clock.
    pub fn new(seed: u64, setup: Setup) -> Arc<Self> {
        let started = Instant::now();
        let history = Arc::new(Recorder::new(started));
        let world = Arc::new(Self {
            seed,
            setup,
            network: Network::new(seed, Arc::clone(&history)),
            history,
            disks: Dice::named(seed, "disks"),
            hands: Dice::named(seed, "hands"),
            started,
            machines: Mutex::default(),
            effects: Mutex::default(),
            void: Mutex::default(),
            calm: AtomicBool::new(false),
            faults: AtomicU64::new(0),
            before: OnceLock::new(),
            me: OnceLock::new(),
        });
        drop(world.me.set(Arc::downgrade(&world)));
        let me = Arc::downgrade(&world);
        world.network.on_send(Arc::new(move |host| {
            if let Some(world) = me.upgrade() {
                world.reached(host, Point::Send);
            }
        }));
        world
    }

    /// Puts a machine into the world and starts it.
    pub fn add(self: &Arc<Self>, name: &str, program: Program) {
        let stop = self.setup.stop.as_ref();
        let trap = stop
            .filter(|stop| stop.machine == name)
            .map(|stop| (stop.at, Duration::from_millis(300)));
        let disk = match program {
            Program::Database => SimulatedDisk::database(),
            _ => SimulatedDisk::new().scripted(MachineDisk::script(self, name)),
        };
        let machine = Machine {
            program,
            disk,
            clock: Arc::new(MachineClock::new(self.started)),
            incarnation: 0,
            up: false,
            tasks: Vec::new(),
            engine: None,
            trap,
            points: 0,
        };
        self.machines().insert(name.to_owned(), machine);
        self.start(name);
    }

    /// A host without a process: clients.
    pub fn env_of_client(&self, name: &str) -> Env {
        self.network.up(name, 1);
        Env {
            clock: Arc::new(MachineClock::new(self.started)),
            entropy: Arc::new(SeededEntropy::new(mix(self.seed, name))),
            connector: self.network.connector(name, 1),
        }
    }

    /// Starts a machine that is down.
    pub fn start(self: &Arc<Self>, name: &str) {
        let mut machines = self.machines();
        let database = machines.get(DATABASE).map(|machine| machine.disk.clone());
        let Some(machine) = machines.get_mut(name).filter(|machine| !machine.up) else {
            return;
        };
        machine.incarnation += 1;
        machine.up = true;
        let seed = mix(self.seed, name).wrapping_add(machine.incarnation);
        let life = Life {
            world: Arc::clone(self),
            machine: name.to_owned(),
            incarnation: machine.incarnation,
            disk: match (&machine.program, database) {
                (Program::Replica(_), Some(database)) => {
                    database.scripted(Reached::script(self, name, machine.incarnation))
                }
                _ => machine.disk.clone(),
            },
            env: Env {
                clock: Arc::clone(&machine.clock) as _,
                entropy: Arc::new(SeededEntropy::new(seed)),
                connector: self.network.connector(name, machine.incarnation),
            },
        };
        let program = machine.program.clone();
        drop(machines);
        self.network.up(name, life.incarnation);
        self.history.add(What::Note(format!("{name} starts")));
        tokio::spawn(async move {
            let (world, name, incarnation) = (
                Arc::clone(&life.world),
                life.machine.clone(),
                life.incarnation,
            );
            let ended = nodes::run(program, life).await;
            if !world.network.is(&name, incarnation) {
                return;
            }
            // A process that gave up, as it may when its disk fails: somebody starts it again.
            let how = ended.map_or_else(|error| format!("{error:#}"), |()| "well".to_owned());
            world
                .history
                .add(What::Note(format!("{name} ended: {how}")));
            world.crash(&name, false);
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.start(&name);
        });
    }

    /// A machine loses power, now.
    pub fn crash(&self, name: &str, silently: bool) {
        let mut machines = self.machines();
        let Some(machine) = machines.get_mut(name).filter(|machine| machine.up) else {
            return;
        };
        machine.up = false;
        // Dropped at the end, when nothing is locked.
        let _engine = machine.engine.take();
        machine.trap = None;
        let tasks = std::mem::take(&mut machine.tasks);
        let disk = machine.disk.clone();
        drop(machines);
        self.history.add(What::Note(format!("{name} is down")));
        disk.crash();
        self.network.down(name, silently);
        tasks.iter().for_each(end);
    }

    /// The process on a machine is told to stop. It is started again when it has.
    pub fn drain(&self, name: &str) {
        let machines = self.machines();
        let tasks = machines.get(name).map(|machine| machine.tasks.clone());
        drop(machines);
        tasks.iter().flatten().for_each(Tasks::begin_drain);
    }

    /// A machine reaches a point, which may be its last.
    pub fn reached(&self, name: &str, _point: Point) {
        let mut machines = self.machines();
        let Some(machine) = machines.get_mut(name) else {
            return;
        };
        machine.points += 1;
        let Some((left, back)) = &mut machine.trap else {
            return;
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        let back = *back;
        drop(machines);
        self.fault(format!("{name} stops at a point"));
        self.crash(name, false);
        self.restart_after(name, back);
    }

    /// Starts a machine again after a time.
    pub fn restart_after(&self, name: &str, time: Duration) {
        let (me, name) = (self.me.get().cloned(), name.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(world) = me.and_then(|me| me.upgrade()) {
                world.start(&name);
            }
        });
    }

    /// A machine will crash after so many points more.
    pub fn set_trap(&self, name: &str, points: u64, back: Duration) {
        if let Some(machine) = self.machines().get_mut(name) {
            machine.trap = Some((points, back));
        }
    }

    /// A saga is about to be started.
    pub fn begins(&self) {
        self.before.get_or_init(|| self.points());
    }

    /// How many points each machine had reached when the first saga was about to be started.
    pub fn before(&self) -> BTreeMap<String, u64> {
        self.before.get().cloned().unwrap_or_default()
    }

    /// How many points each machine has reached.
    pub fn points(&self) -> BTreeMap<String, u64> {
        let machines = self.machines();
        let points = machines.iter();
        points
            .map(|(name, machine)| (name.clone(), machine.points))
            .collect()
    }

    /// Faults end: everything is up, connected and right from now on.
    pub fn calm_down(self: &Arc<Self>) {
        self.calm.store(true, Ordering::Relaxed);
        self.network.heal_all();
        for name in self.names() {
            if let Some(machine) = self.machines().get_mut(&name) {
                if self.setup.stop.is_none() {
                    machine.trap = None;
                }
                machine.disk.set_full(false);
                machine.disk.release_syncs();
                machine.clock.set_wrong_by(0);
            }
            self.start(&name);
        }
        self.history.add(What::Note("faults end".to_owned()));
    }

    /// Whether faults have ended.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Counts a fault and writes it down.
    pub fn fault(&self, what: String) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.history.add(What::Fault(what));
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Names of all machines.
    pub fn names(&self) -> Vec<String> {
        self.machines().keys().cloned().collect()
    }

    /// A machine's disk.
    pub fn disk(&self, name: &str) -> Option<SimulatedDisk> {
        let machines = self.machines();
        machines.get(name).map(|machine| machine.disk.clone())
    }

    /// A machine's clock.
    pub fn clock(&self, name: &str) -> Option<Arc<MachineClock>> {
        let machines = self.machines();
        machines.get(name).map(|machine| Arc::clone(&machine.clock))
    }

    /// The coordinator that is open on a machine.
    pub fn engine(&self, name: &str) -> Option<Engine> {
        let machines = self.machines();
        machines.get(name)?.engine.clone()
    }

    /// A participant's database is open.
    pub fn opened(&self, name: &str, ledger: Ledger<Effects>) {
        let mut all = self.effects.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), ledger);
    }

    /// The same command comes to a participant once more, after a time, in whatever life the machine is by then.
    pub fn again(self: &Arc<Self>, name: &str, token: u64, work: Command, later: Duration) {
        let (world, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(later).await;
            // A transient failure is a promise that this command will never take effect: who keeps commands in a queue must drop it there.
            if world.void().contains(&token) {
                return;
            }
            let ledger = {
                let all = world.effects.lock();
                let all = all.unwrap_or_else(PoisonError::into_inner);
                all.get(&name).cloned()
            };
            if let Some(ledger) = ledger {
                // What it says is nobody's business any more.
                drop(ledger.execute(work).await);
            }
        });
    }

    /// A command was answered with a transient failure.
    pub fn failed(&self, token: u64) {
        self.void().insert(token);
    }

    fn void(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.void.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
