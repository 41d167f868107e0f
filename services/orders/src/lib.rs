//! The orders service of the shop: takes orders, and has each carried out by a saga.
//!
//! # What it does
//!
//! - **`shop.orders.v1.OrderService`**: PlaceOrder, GetOrder, ListOrders, CancelOrder, WatchOrder.
//! - **The participant `orders`** of the sagas `place-order` and `refund-order`: `orders.LockOrder` (undone by `orders.RejectOrder`),
//!   `orders.ConfirmOrder`, `orders.MarkRefunded`.
//! - **`ledger.v1.FeedService`**: its log, for those who follow it (notifications does).
//! - **The definitions** of both sagas ([`domain::definitions()`]): registered and activated when it starts; it is ready once the coordinator has them.
//!
//! # How an order becomes a saga
//!
//! ```text
//!  PlaceOrder -> check at inventory (5 s, breaker) -> OrderPlaced in the log -> answer PENDING
//!                                                          |
//!                                     observer, after the commit (or the sweep, after a crash)
//!                                                          v
//!                                StartSaga(id = order id), until the coordinator answers -> SagaStarted in the log
//! ```
//!
//! The start of the saga is not sent by PlaceOrder; it is *owed by the state* of the order ([`domain::outstanding`]). Whatever crashes between
//! the two, the order is in the log and is open, and whoever opens the log next starts its saga. The saga's id is the order's id, so that
//! starting it twice is starting it once.
//!
//! # Cancelling
//!
//! A pending order records the request and owes a CancelSaga; the saga undoes itself and rejects the order with its compensation, or, if it never
//! got as far as locking the order, the order is rejected when the saga is seen to have ended. When the saga has passed its point of no return,
//! the request stays on record, and the confirmation turns it into a refund in the same commit. A confirmed order owes the start of
//! `refund-order`. CancelOrder answers the same to all of them, once the request is on record: it will be undone or refunded.
//!
//! # Where to look
//!
//! [`domain`] is pure and holds every rule; [`decider`] puts it on the ledger; `service` answers calls; `steps` does what sagas ask; `owed` does
//! what orders owe; [`projection`] is the read side; `watch` follows single orders.

pub mod coordinator;
pub mod decider;
pub mod domain;
mod errors;
mod ids;
pub mod inventory;
mod owed;
pub mod projection;
mod queries;
pub mod registration;
mod service;
mod steps;
mod watch;

use std::time::Duration;

use anyhow::Context as _;
use chassis::{ChassisConfig, Process};
use ledger::{CommitterOptions, FeedService, Ledger, StoreConfig};
use sagamesh_api::shop::orders::v1::order_service_server::OrderServiceServer;
use tonic::service::Routes;

use coordinator::Coordinator;
use decider::Orders;
use inventory::Inventory;
use queries::Queries;

/// How long tasks may take to stop before the database is closed.
const TASKS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// Full name of the service.
pub const SERVICE: &str = "shop.orders.v1.OrderService";

/// How to run it.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "orders", version, about = "The orders service of the shop")]
pub struct Config {
    /// Addresses, limits, telemetry.
    #[command(flatten)]
    pub chassis: ChassisConfig,
    /// Where the orders are kept.
    #[command(flatten)]
    pub store: StoreConfig,
    /// Address of the coordinator; of its replicas, with commas between them.
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
    /// Address of inventory.
    #[arg(
        long,
        env = "SAGAMESH_INVENTORY",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL"
    )]
    pub inventory: String,
    /// How long inventory's circuit breaker stays open before one call probes; units ms, s, m, h.
    #[arg(long, env = "SAGAMESH_BREAKER_RECOVERY", default_value = "60s", value_parser = chassis::config::parse_duration, value_name = "TIME")]
    pub breaker_recovery: Duration,
}

/// Runs the service until shutdown.
///
/// # Errors
/// If the database cannot be opened, an address is invalid, or the coordinator refuses a definition.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let (env, tasks) = (process.env.clone(), process.tasks.clone());
    let (observer, notes) = owed::channel();
    let store = config.store.clone().named("orders");
    let projections: Vec<Box<dyn ledger::Projection>> =
        vec![Box::new(projection::OrdersProjection)];
    let options = CommitterOptions::default();
    let ledger = Ledger::open(store, Orders, observer, projections, &env, &tasks, options)
        .await
        .context("cannot open the orders")?;

    let coordinator = Coordinator::new(&config.coordinator, &env);
    let queries = Queries::new(ledger.reader());
    let owed = owed::Owed {
        ledger: ledger.clone(),
        queries: queries.clone(),
        coordinator: coordinator.clone(),
        env: env.clone(),
    };
    tasks.spawn_essential("owed effects", owed::run(owed, notes, tasks.token()));
    let (hub, subscription) = watch::Hub::new(&ledger).context("cannot follow the orders")?;
    tasks.spawn_essential(
        "order watchers",
        hub.clone().run(subscription, tasks.token()),
    );
    let ids = ids::Ids::new(&env);
    let replicas = config.coordinator_replicas.as_ref();
    let replicas = replicas.unwrap_or(&config.coordinator);
    steps::participate(&ledger, replicas, &ids, &env, &tasks)
        .context("cannot take part in sagas")?;

    let inventory = Inventory::new(&config.inventory, config.breaker_recovery, &env, &tasks);
    let service = service::Service {
        ledger: ledger.clone(),
        queries,
        inventory,
        hub,
        ids,
    };
    let routes =
        Routes::new(OrderServiceServer::new(service)).add_service(ledger.feed().into_server());

    // Ready means: an order that is taken can be carried out.
    let draining = tasks.draining();
    let registered = tokio::select! {
        biased;
        registered = registration::register(&coordinator, &env) => registered.map(|()| true),
        () = draining.cancelled() => Ok(false),
    };
    if registered? {
        process.serve(routes, &[SERVICE, FeedService::NAME]).await?;
    } else {
        tasks.token().cancel();
    }
    if let Err(running) = tasks.shutdown(TASKS_TIMEOUT).await {
        tracing::warn!(?running, "these tasks do not stop");
    }
    ledger.close().await;
    Ok(())
}
