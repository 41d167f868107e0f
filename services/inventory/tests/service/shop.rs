//! A service on a temporary folder, and commands as the coordinator sends them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chassis::{Env, Tasks};
use inventory::api::InventoryApi;
use inventory::decider::Inventory;
use inventory::domain::Settlement;
use inventory::steps::Steps;
use ledger::{Ledger, StoreConfig};
use participant::{Direction, HeartbeatHandle, Kind, Outcome, StepCommand, Value};
use sagamesh_api::shop::inventory::v1 as api;
use sagamesh_api::shop::inventory::v1::inventory_service_server::InventoryService as _;
use sagamesh_api::shop::v1::Money;
use tonic::{Request, Status};
use uuid::Uuid;

pub(crate) struct Shop {
    pub(crate) ledger: Ledger<Inventory>,
    pub(crate) steps: Steps,
    pub(crate) api: InventoryApi,
    pub(crate) env: Env,
    tasks: Tasks,
}

impl Shop {
    pub(crate) async fn open(folder: &Path) -> Self {
        Self::with_ttl(folder, Duration::from_secs(900)).await
    }

    pub(crate) async fn with_ttl(folder: &Path, reservation_ttl: Duration) -> Self {
        Self::on(StoreConfig::sqlite(folder, "inventory"), reservation_ttl).await
    }

    pub(crate) async fn on(store: StoreConfig, reservation_ttl: Duration) -> Self {
        let (env, tasks) = (Env::system(), Tasks::new());
        let ledger = inventory::open(&store, &env, &tasks)
            .await
            .expect("the log opens");
        let steps = Steps::new(ledger.clone(), env.clone(), reservation_ttl);
        let api = InventoryApi::new(ledger.clone());
        Self {
            ledger,
            steps,
            api,
            env,
            tasks,
        }
    }

    /// Stops it as a restart does.
    pub(crate) async fn stop(self) {
        self.tasks
            .shutdown(Duration::from_secs(10))
            .await
            .expect("every task stops");
        self.ledger.close().await;
    }

    pub(crate) async fn stock(&self, sku: &str, quantity: u64) {
        self.restock(request(sku, quantity))
            .await
            .expect("a restock");
    }

    pub(crate) async fn restock(
        &self,
        request: api::RestockRequest,
    ) -> Result<api::RestockResponse, Status> {
        Ok(self.api.restock(Request::new(request)).await?.into_inner())
    }

    pub(crate) async fn reserve(&self, order: &str, lines: &str) -> Outcome {
        self.steps.reserve(reserve(order, lines)).await.into()
    }

    pub(crate) async fn release(&self, order: &str) -> Outcome {
        // From the saga's id alone, as a compensation must be able to.
        self.steps
            .settle(
                step(order, "reserve-stock", Direction::Compensation, &[]),
                Settlement::Release,
            )
            .await
            .into()
    }

    pub(crate) async fn commit(&self, order: &str) -> Outcome {
        let command = step(
            order,
            "commit-stock",
            Direction::Action,
            &[("order_id", order)],
        );
        self.steps.settle(command, Settlement::Commit).await.into()
    }

    pub(crate) async fn give_back(&self, order: &str) -> Outcome {
        let saga = format!("refund-of-{order}");
        let command = step(
            &saga,
            "return-stock",
            Direction::Action,
            &[("order_id", order)],
        );
        self.steps.settle(command, Settlement::Return).await.into()
    }

    /// (available, reserved, committed), once the read side has seen everything.
    pub(crate) async fn counts(&self, sku: &str) -> (u64, u64, u64) {
        self.counts_at(sku, self.ledger.head()).await
    }

    /// As of a position that another replica may have written.
    pub(crate) async fn counts_at(&self, sku: &str, position: u64) -> (u64, u64, u64) {
        let item = self.item_at(sku, position).await;
        (item.available, item.reserved, item.committed)
    }

    pub(crate) async fn item(&self, sku: &str) -> api::Item {
        self.item_at(sku, self.ledger.head()).await
    }

    async fn item_at(&self, sku: &str, min_position: u64) -> api::Item {
        let request = api::GetItemRequest {
            sku: sku.into(),
            min_position,
        };
        self.api
            .get_item(Request::new(request))
            .await
            .expect("the item exists")
            .into_inner()
            .item
            .expect("an item")
    }

    pub(crate) async fn reservation(&self, order: &str) -> Result<api::Reservation, Status> {
        let request = api::GetReservationRequest {
            reservation_id: order.into(),
            min_position: self.ledger.head(),
        };
        let response = self.api.get_reservation(Request::new(request)).await?;
        Ok(response.into_inner().reservation.expect("a reservation"))
    }
}

/// A restock at 2.50 EUR.
pub(crate) fn request(sku: &str, quantity: u64) -> api::RestockRequest {
    api::RestockRequest {
        request_id: Uuid::now_v7().to_string(),
        sku: sku.into(),
        quantity,
        name: format!("Thing {sku}"),
        unit_price: Some(Money {
            minor_units: 250,
            currency: "EUR".into(),
        }),
    }
}

/// A command for reserve-stock; `lines` is JSON.
pub(crate) fn reserve(order: &str, lines: &str) -> StepCommand {
    let total = r#"{"minor_units":1,"currency":"EUR"}"#;
    let input = [("order_id", order), ("lines", lines), ("total", total)];
    step(order, "reserve-stock", Direction::Action, &input)
}

pub(crate) fn step(
    saga: &str,
    step: &str,
    direction: Direction,
    input: &[(&str, &str)],
) -> StepCommand {
    StepCommand {
        saga_id: saga.to_owned(),
        step: step.to_owned(),
        direction,
        action: format!("test.{step}"),
        attempt: 1,
        lease_token: 1,
        timeout: Duration::from_secs(60),
        not_after: None,
        input: input
            .iter()
            .map(|(name, value)| ((*name).to_owned(), text(value)))
            .collect(),
        outputs: BTreeMap::new(),
        action_output: None,
        traceparent: String::new(),
        heartbeat: HeartbeatHandle::detached(),
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value {
        kind: Some(Kind::Text(text.to_owned())),
    }
}

pub(crate) fn reason(outcome: &Outcome) -> &str {
    outcome
        .failure()
        .map_or("", |failure| failure.reason.as_str())
}
