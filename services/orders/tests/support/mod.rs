//! Orders with an inventory and a coordinator that tests hold in their hands.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "shared by the test files, each of which uses a part of it"
)]

mod coordinator;
mod inventory;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chassis::{Clock, Process, Tasks, channel};
use ledger::{SimulatedDisk, StoreConfig};
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, GetOrderRequest, Order, OrderLine, OrderStatus, PlaceOrderRequest,
};
use sagamesh_api::shop::v1::Money;
use tonic::Status;

pub use coordinator::{FakeCoordinator, FakeSaga, Orders as Participant, undone};
pub use inventory::{FakeInventory, Mood};

pub type Client = OrderServiceClient<chassis::PeerChannel>;

/// How long a test waits for something before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A clock that a test moves.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    pub fn now() -> Self {
        let clock = Self::default();
        clock
            .0
            .store(chassis::Env::system().clock.now_millis(), Ordering::SeqCst);
        clock
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(
            i64::try_from(by.as_millis()).expect("fits"),
            Ordering::SeqCst,
        );
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH
            + Duration::from_millis(
                u64::try_from(self.0.load(Ordering::SeqCst)).expect("after 1970"),
            )
    }
}

/// Everything around orders, and where orders keeps its data.
pub struct World {
    pub inventory: FakeInventory,
    pub coordinator: FakeCoordinator,
    pub clock: ManualClock,
    pub store: StoreConfig,
    pub disk: SimulatedDisk,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = StoreConfig::sqlite(folder.path(), "orders");
        Self {
            inventory: FakeInventory::start().await,
            coordinator: FakeCoordinator::start().await,
            clock: ManualClock::now(),
            store,
            disk: SimulatedDisk::new(),
            _folder: folder,
        }
    }

    /// The same, on a disk that loses power with [`World::crash`].
    pub async fn on_simulated_disk() -> Self {
        let world = Self::new().await;
        Self {
            store: StoreConfig::simulated(&world.disk),
            ..world
        }
    }

    /// The machine loses power: what was not synced is gone, and nothing is finished.
    pub async fn crash(&self, running: Running) {
        self.disk.crash();
        running.served.abort();
        let _ = running.served.await;
        let _ = running.tasks.shutdown(Duration::from_secs(5)).await;
    }

    pub fn folder(&self) -> &Path {
        self._folder.path()
    }

    /// Starts orders, and waits until it serves.
    pub async fn orders(&self) -> Running {
        let mut process = Process::for_test("orders");
        process.env.clock = Arc::new(self.clock.clone());
        let config = orders::Config {
            chassis: process.config.clone(),
            store: self.store.clone(),
            coordinator: self.coordinator.url(),
            coordinator_replicas: None,
            inventory: self.inventory.url(),
            breaker_recovery: Duration::from_secs(60),
        };
        let (env, tasks) = (process.env.clone(), process.tasks.clone());
        let address = format!("http://{}", process.grpc_addr());
        let served = tokio::spawn(async move {
            let served = orders::run(config, process).await;
            assert!(served.is_ok(), "orders ended: {served:?}");
            served
        });
        Running {
            client: OrderServiceClient::new(channel(&env, &address)),
            address,
            env,
            tasks,
            served,
        }
    }
}

/// A running service.
pub struct Running {
    pub client: Client,
    pub address: String,
    pub env: chassis::Env,
    tasks: Tasks,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Ends it as SIGTERM does.
    pub async fn stop(self) {
        drop(self.client);
        self.tasks.begin_drain();
        self.served.await.expect("no panic").expect("served");
    }

    pub async fn get(&self, order_id: &str, min_position: u64) -> Result<Order, Status> {
        let request = GetOrderRequest {
            order_id: order_id.to_owned(),
            customer_id: "alice".to_owned(),
            min_position,
        };
        Ok(self
            .client
            .clone()
            .get_order(request)
            .await?
            .into_inner()
            .order
            .expect("an order"))
    }

    pub async fn place(&self, request: &PlaceOrderRequest) -> Result<Order, Status> {
        Ok(self
            .client
            .clone()
            .place_order(request.clone())
            .await?
            .into_inner()
            .order
            .expect("an order"))
    }

    pub async fn cancel(&self, order_id: &str) -> Result<Order, Status> {
        let request = CancelOrderRequest {
            order_id: order_id.to_owned(),
            customer_id: "alice".to_owned(),
            reason: "changed my mind".to_owned(),
            request_id: String::new(),
        };
        Ok(self
            .client
            .clone()
            .cancel_order(request)
            .await?
            .into_inner()
            .order
            .expect("an order"))
    }

    /// Waits until the order is in this status, by watching it.
    pub async fn until(&self, order_id: &str, status: OrderStatus) -> Order {
        let seen = async {
            loop {
                let request = sagamesh_api::shop::orders::v1::WatchOrderRequest {
                    order_id: order_id.to_owned(),
                    customer_id: String::new(),
                };
                let mut changes = self
                    .client
                    .clone()
                    .watch_order(request)
                    .await
                    .expect("watched")
                    .into_inner();
                while let Some(change) = changes.message().await.expect("a change") {
                    if let Some(order) = change.order.filter(|order| order.status() == status) {
                        return order;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("the order never became {status:?}"))
    }
}

pub fn eur(minor_units: i64) -> Money {
    Money {
        minor_units,
        currency: "EUR".to_owned(),
    }
}

pub fn line(sku: &str, quantity: u32) -> OrderLine {
    OrderLine {
        sku: sku.to_owned(),
        quantity,
        unit_price: None,
    }
}

pub fn request() -> PlaceOrderRequest {
    PlaceOrderRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        customer_id: "alice".to_owned(),
        lines: vec![line("mug", 2), line("tea", 1)],
        payment_method: "pm_ok".to_owned(),
        currency: "EUR".to_owned(),
        contact_email: "alice@example.com".to_owned(),
    }
}

/// The reason in a status.
pub fn reason(status: &Status) -> String {
    chassis::problem::reason(status).unwrap_or_default()
}
