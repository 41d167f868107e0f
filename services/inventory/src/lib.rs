//! The inventory service of the shop: what there is, what is reserved, and what it costs.
//!
//! - **Writes** are commands to the [decider]: [`Restock`](domain::Restock) over gRPC, and the [saga steps](steps)
//!   ReserveStock, ReleaseStock, CommitStock and ReturnStock, each behind the barrier in the commit of its events.
//! - **Streams**: `item/<sku>` (counts of one item, with snapshots) and `reservation/<id>` (what one order holds). A
//!   reservation of several SKUs is one command that names all their streams: all lines or none.
//! - **Reads** come from the [projection] (tables `items` and `reservations`); a `min_position` waits for it.
//! - **Expiry** asks the coordinator before it releases anything: see the [sweeper].
//! - **The feed** of all events is `ledger.v1.FeedService`.
//!
//! ```text
//!   reservation:   (none) --reserve--> HELD --commit--> COMMITTED --return--> RETURNED
//!                                       |                                        ^
//!                                       +--release, expire--> RELEASED           |
//!                                       +--------------return--------------------+
//! ```
//!
//! Counts: `on_hand = available + reserved` always; reserve moves available to reserved, release moves it back, commit
//! takes it out, return puts it back on the shelf.

pub mod api;
pub mod catalogue;
pub mod decider;
pub mod domain;
pub mod projection;
pub mod queries;
pub mod steps;
pub mod sweeper;

use std::time::Duration;

use chassis::{ChassisConfig, Env, Process, Tasks};
use clap::ArgAction;
use ledger::{CommitterOptions, FeedService, Ledger, StoreConfig};
use participant::Participant;
use sagamesh_api::shop::inventory::v1::inventory_service_server::InventoryServiceServer;
use tonic::service::Routes;

use crate::decider::Inventory;
use crate::projection::ShelfProjection;
use crate::steps::Steps;
use crate::sweeper::{Sweep, Sweeper};

/// Name of the service, and of the participant.
pub const SERVICE: &str = "inventory";

/// Configuration of the service.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "inventory",
    version,
    about = "The inventory service: stock, reservations, prices."
)]
pub struct Config {
    /// What every process has.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// Where its log is.
    #[command(flatten)]
    pub store: StoreConfig,
    /// The coordinator whose saga steps it does; several replicas with commas between them.
    #[arg(
        long,
        env = "SAGAMESH_COORDINATOR",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    pub coordinator: String,
    /// Addresses of the coordinator's replicas, with commas between them: a stream for saga steps goes to each. Unset: the same as the coordinator's.
    #[arg(long, env = "SAGAMESH_COORDINATOR_REPLICAS", value_name = "URLS")]
    pub coordinator_replicas: Option<String>,
    /// How many steps run at a time.
    #[arg(
        long,
        env = "SAGAMESH_STEP_CONCURRENCY",
        default_value_t = 256,
        value_name = "N"
    )]
    pub step_concurrency: u32,
    /// How long stock is reserved before the coordinator is asked whether it is still needed; units ms, s, m, h.
    #[arg(long, env = "SAGAMESH_RESERVATION_TTL", default_value = "15m", value_parser = chassis::config::parse_duration, value_name = "TIME")]
    pub reservation_ttl: Duration,
    /// How often to look for reservations past their time.
    #[arg(long, env = "SAGAMESH_SWEEP_INTERVAL", default_value = "30s", value_parser = chassis::config::parse_duration, value_name = "TIME")]
    pub sweep_interval: Duration,
    /// How long after its time a reservation is kept whose saga the coordinator does not know.
    #[arg(long, env = "SAGAMESH_START_WINDOW", default_value = "10m", value_parser = chassis::config::parse_duration, value_name = "TIME")]
    pub start_window: Duration,
    /// Put the demo's items on the shelf, if they are not there.
    #[arg(long, env = "SAGAMESH_SEED_CATALOGUE", action = ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true", value_name = "BOOL")]
    pub seed_catalogue: bool,
}

/// Runs the service until shutdown.
///
/// # Errors
/// If its log cannot be opened, or its configuration makes no sense.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let env = process.env.clone();
    let tasks = process.tasks.clone();
    let ledger = open(&config.store, &env, &process.tasks).await?;
    if config.seed_catalogue {
        catalogue::seed(&ledger).await?;
    }
    let steps = Steps::new(ledger.clone(), env.clone(), config.reservation_ttl);
    let replicas = config.coordinator_replicas.as_ref();
    let replicas = replicas.unwrap_or(&config.coordinator);
    let participant =
        Participant::builder(SERVICE, replicas, &env).concurrency(config.step_concurrency);
    steps.register(participant).run(&tasks)?;

    let asked = config
        .coordinator
        .split(',')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    let sweep = Sweep {
        interval: config.sweep_interval,
        start_window: config.start_window,
        ..Sweep::default()
    };
    Sweeper::new(ledger.clone(), chassis::channel(&env, &asked), env, sweep).run(&tasks);

    let routes = Routes::new(InventoryServiceServer::new(api::InventoryApi::new(
        ledger.clone(),
    )))
    .add_service(ledger.feed().into_server());
    process
        .serve(
            routes,
            &["shop.inventory.v1.InventoryService", FeedService::NAME],
        )
        .await
}

/// Opens the log with its projection.
///
/// # Errors
/// If it is damaged, newer than this program, or in use.
pub async fn open(
    store: &StoreConfig,
    env: &Env,
    tasks: &Tasks,
) -> Result<Ledger<Inventory>, ledger::Error> {
    Ledger::open(
        store.clone().named(SERVICE),
        Inventory,
        (),
        vec![Box::new(ShelfProjection)],
        env,
        tasks,
        CommitterOptions::default(),
    )
    .await
}
