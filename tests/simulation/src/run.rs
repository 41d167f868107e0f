//! One simulation from its seed to its report.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use coordinator::Options;
use sagamesh_api::saga::v1::SagaState;

use crate::audit::Audit;
use crate::clients::Clients;
use crate::customers::Customers;
use crate::dice::{Dice, fnv};
use crate::history::{Entry, What};
use crate::nodes::Program;
use crate::nodes::participant::{ACTIONS, MAILS};
use crate::nodes::shop::Bank;
use crate::promises::{self, Violation};
use crate::setup::{Setup, url};
use crate::world::{COORDINATOR, DATABASE, World};
use crate::{faults, graphs, people};

/// How long everything may take to come to rest once faults have ended. Simulated time costs little.
const PATIENCE: u64 = 600;
/// What may still come after that: commands that come again.
const LATE: Duration = Duration::from_secs(45);
/// How many definitions there are.
const DEFINITIONS: u64 = 4;

/// What a simulation was like.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Sagas that were started.
    pub sagas: usize,
    /// Faults that were injected.
    pub faults: u64,
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// What happened, in order.
    pub history: Vec<Entry>,
    /// Hash of the history and of everything that the network did.
    pub trace: u64,
    /// How each saga ended, of those that did.
    pub endings: Vec<SagaState>,
    /// How many points each machine reached.
    pub points: BTreeMap<String, u64>,
    /// How many of them before the first saga was about to be started.
    pub before: BTreeMap<String, u64>,
}

/// Runs the simulation of a seed.
///
/// # Panics
/// If no runtime can be made.
#[expect(
    clippy::expect_used,
    reason = "without a runtime there is nothing to do"
)]
pub fn run(seed: u64, setup: &Setup) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    listen_for_panics();
    let (world, audit) = runtime.block_on(play(seed, setup.clone()));
    let (sagas, _) = runtime.block_on(async { audit.count(&world) });
    let (points, before) = (world.points(), world.before());
    let faults = world.faults();
    let setup = world.setup.clone();
    let (history, network) = world.history.finish();
    // The processes end before it is judged: the panic of one counts as well.
    drop((audit, world));
    drop(runtime);
    let (mut violations, endings) = promises::check(&setup, &history);
    violations.extend(
        panics()
            .into_iter()
            .map(|text| Violation { promise: 0, text }),
    );
    let trace = history.iter().fold(network, |hash, entry| {
        fnv(hash, entry.to_string().as_bytes())
    });
    Report {
        seed,
        sagas,
        faults,
        violations,
        history,
        trace,
        endings,
        points,
        before,
    }
}

async fn play(seed: u64, setup: Setup) -> (Arc<World>, Audit) {
    let world = World::new(seed, setup);
    let shop = ["orders", "inventory", "payments"].map(str::to_owned);
    let options = Options {
        participants: world
            .setup
            .participants
            .iter()
            .cloned()
            .chain(shop)
            .collect(),
        heartbeat_interval: Duration::from_secs(2),
        breaker_recovery: Duration::from_secs(5),
        ..Options::default()
    };
    coordinate(&world, options);
    let with_shop = world.setup.orders > 0;
    let actions = if with_shop { MAILS } else { ACTIONS };
    for name in &world.setup.participants {
        world.add(name, Program::Participant(actions));
    }
    if with_shop {
        let bank = Bank::new(&world);
        world.add("orders", Program::Orders);
        world.add("inventory", Program::Inventory);
        world.add("payments", Program::Payments(bank));
    }
    let clients = Clients::new(&world);
    let audit = Audit::default();
    tokio::spawn(audit.clone().run(Arc::clone(&world)));
    tokio::spawn(people::operate(Arc::clone(&world)));
    let names = match world.setup.sagas {
        0 => Vec::new(),
        _ => define(&world, &clients).await,
    };
    tokio::spawn(faults::inject(Arc::clone(&world)));
    if world.setup.faults.people && !names.is_empty() {
        tokio::spawn(clients.clone().upgrade(names.clone()));
    }
    let dice = Dice::named(seed, "starts");
    let chaos = u64::try_from(world.setup.chaos.as_millis()).unwrap_or(u64::MAX);
    for number in 0..world.setup.sagas {
        let definition = dice.pick(&names).cloned().unwrap_or_default();
        let after = dice.millis(0, chaos * 3 / 4);
        tokio::spawn(clients.clone().saga(number, definition, after));
    }
    let customers = Customers::new(&world);
    for number in 0..world.setup.orders {
        let after = dice.millis(2_000, chaos * 3 / 4);
        tokio::spawn(customers.clone().order(number, after));
    }
    tokio::time::sleep(world.setup.chaos).await;
    world.calm_down();
    let sagas = usize::try_from(world.setup.sagas).unwrap_or(usize::MAX);
    for _ in 0..PATIENCE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (known, open) = audit.count(&world);
        if known >= sagas && open == 0 && customers.are_served() {
            break;
        }
    }
    if world.setup.script.is_none() {
        tokio::time::sleep(LATE).await;
    }
    world.history.add(What::Note("the end".to_owned()));
    (world, audit)
}

/// Starts the coordinator, or its replicas and their database.
fn coordinate(world: &Arc<World>, options: Options) {
    let machines = world.setup.coordinators();
    if machines.len() == 1 {
        return world.add(COORDINATOR, Program::Coordinator(Box::new(options)));
    }
    world.network.serve(COORDINATOR, machines.clone());
    world.add(DATABASE, Program::Database);
    for name in machines {
        let options = Options {
            replica: name.clone(),
            replica_address: url(&name),
            ..options.clone()
        };
        world.add(&name, Program::Replica(Box::new(options)));
    }
}

async fn define(world: &Arc<World>, clients: &Clients) -> Vec<String> {
    if let Some(script) = &world.setup.script {
        clients.define(script.definition.clone()).await;
        return vec![script.definition.name.clone()];
    }
    let dice = Dice::named(world.seed, "definitions");
    let mut names = Vec::new();
    for number in 0..DEFINITIONS {
        let name = format!("d{number}");
        clients
            .define(graphs::random(&name, &world.setup.participants, &dice))
            .await;
        names.push(name);
    }
    names
}

thread_local! {
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A panic in a process is caught by the runtime; here it is remembered.
fn listen_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let listening = PANICS.with_borrow_mut(|panics| {
                panics
                    .as_mut()
                    .map(|panics| panics.push(format!("a process panicked: {info}")))
                    .is_some()
            });
            if !listening {
                usual(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

fn panics() -> Vec<String> {
    PANICS.take().unwrap_or_default()
}
