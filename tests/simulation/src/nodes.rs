//! What machines run.

pub mod coordinator;
pub mod effects;
pub mod participant;
pub mod shop;

use std::net::SocketAddr;

use ::coordinator::Options;
use chassis::{ChassisConfig, Listener, Process};

use crate::world::Life;

/// A process to run on a machine.
#[derive(Clone, Debug)]
pub enum Program {
    /// The coordinator, alone.
    Coordinator(Box<Options>),
    /// One of several replicas of the coordinator.
    Replica(Box<Options>),
    /// The database that they share.
    Database,
    /// A participant that does and undoes things behind the barrier, with the names of its actions.
    Participant(&'static [&'static str]),
    /// The orders service.
    Orders,
    /// The inventory service.
    Inventory,
    /// The payments service, and the bank that it calls.
    Payments(shop::Bank),
}

/// Runs a process until it ends.
///
/// # Errors
/// Whatever it says when it cannot go on.
pub async fn run(program: Program, life: Life) -> anyhow::Result<()> {
    match program {
        Program::Coordinator(options) | Program::Replica(options) => {
            coordinator::run(life, *options).await
        }
        // It does nothing by itself.
        Program::Database => std::future::pending().await,
        Program::Participant(actions) => participant::run(life, actions).await,
        Program::Orders => shop::orders(life).await,
        Program::Inventory => shop::inventory(life).await,
        Program::Payments(bank) => shop::payments(life, bank).await,
    }
}

/// A process of the chassis, on the simulated network.
///
/// # Errors
/// Never, in a simulation.
pub fn process(service: &'static str, life: &Life) -> anyhow::Result<Process> {
    let address = SocketAddr::from(([10, 0, 0, 2], 50051));
    let listener = life.world.network.listener(&life.machine, address);
    // Nobody asks for metrics.
    let admin = Listener::new(address, std::future::pending);
    let mut config = ChassisConfig::default();
    config.server.reflection = false;
    let process = Process::with_listeners(service, life.env.clone(), config, listener, admin)?;
    life.adopt(&process.tasks);
    Ok(process)
}
