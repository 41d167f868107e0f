//! Where the scenarios play: clients of one system, and what was ordered so far.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use sagamesh_api::saga::v1::operator_service_client::OperatorServiceClient;
use sagamesh_api::saga::v1::{PauseParticipantRequest, ResumeParticipantRequest, SagaState};
use sagamesh_api::shop::inventory::v1::RestockRequest;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::orders::v1::{Order, OrderLine, OrderStatus, PlaceOrderRequest};
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use sagamesh_api::shop::v1::Money;
use tokio::sync::watch;

use crate::commands::orders::Shop;
use crate::commands::sagas::{self, history};
use crate::commands::stock;
use crate::connect::{self, Channel};
use crate::failure::from_status;
use crate::launcher::process::Levers;
use crate::output::{self, short};
use crate::system::System;
use crate::timeline;

/// What there is at first: SKU, quantity, price in cents. Mice are for as many orders as fit into the longest wait for certificates.
const STOCK: [(&str, u64, i64); 4] = [
    ("keyboard", 100, 8_900),
    ("mouse", 1_000, 4_500),
    ("monitor", 3, 32_900),
    (LOAD_SKU, 10_000, 900),
];
/// What customers order when there is to be load.
pub(super) const LOAD_SKU: &str = "cable";
/// Time between two looks at the stock.
const LOOK: Duration = Duration::from_millis(10);
/// The longest that one order may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// The payments service.
pub(super) type Payments = PaymentServiceClient<Channel>;

/// The stage.
pub(super) struct Stage {
    pub(super) shop: Shop,
    pub(super) sagas: sagas::Client,
    pub(super) operators: OperatorServiceClient<Channel>,
    pub(super) inventory: InventoryServiceClient<Channel>,
    pub(super) payments: Payments,
    /// The system that it stands on.
    pub(super) system: System,
    levers: BTreeMap<&'static str, Vec<Levers>>,
    /// Everything that was put in stock, by SKU.
    pub(super) stocked: BTreeMap<&'static str, u64>,
    /// Every order that was accepted.
    pub(super) orders: Vec<String>,
}

impl Stage {
    pub(super) fn new(
        system: System,
        levers: BTreeMap<&'static str, Vec<Levers>>,
    ) -> anyhow::Result<Stage> {
        let channel = |service: &str| connect::service(&system, service);
        Ok(Stage {
            shop: Shop::open(&system, "alice")?,
            sagas: sagas::client(&system)?,
            operators: OperatorServiceClient::new(channel("coordinator")?),
            inventory: InventoryServiceClient::new(channel("inventory")?),
            payments: PaymentServiceClient::new(channel("payments")?),
            system,
            levers,
            stocked: BTreeMap::new(),
            orders: Vec::new(),
        })
    }

    /// Fills the shop.
    pub(super) async fn set_up(&mut self) -> anyhow::Result<()> {
        for (sku, quantity, cents) in STOCK {
            let request = RestockRequest {
                request_id: uuid::Uuid::now_v7().to_string(),
                sku: sku.into(),
                quantity,
                name: sku.into(),
                unit_price: Some(Money {
                    minor_units: cents,
                    currency: "EUR".into(),
                }),
            };
            let answer = self.inventory.restock(connect::request(request)).await;
            answer.map_err(|status| from_status("inventory", "filling the shop", &status))?;
            *self.stocked.entry(sku).or_default() += quantity;
        }
        // Orders are checked against what the read side shows.
        let shown = async {
            while stock::items(&mut self.inventory).await?.len() < STOCK.len() {
                tokio::time::sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, shown)
            .await
            .context("the stock is never shown")?
    }

    /// Places an order; `lines` are SKUs and quantities.
    pub(super) async fn place(
        &mut self,
        lines: &[(&str, u32)],
        payment_method: &str,
    ) -> anyhow::Result<Order> {
        let line = |(sku, quantity): &(&str, u32)| OrderLine {
            sku: (*sku).into(),
            quantity: *quantity,
            unit_price: None,
        };
        let order = self
            .shop
            .place(PlaceOrderRequest {
                request_id: uuid::Uuid::now_v7().to_string(),
                customer_id: String::new(),
                lines: lines.iter().map(line).collect(),
                payment_method: payment_method.into(),
                currency: "EUR".into(),
                contact_email: "alice@example.com".into(),
            })
            .await?;
        self.orders.push(order.order_id.clone());
        Ok(order)
    }

    /// Waits for the end of an order and of its saga, draws the saga, and returns what is otherwise than it should.
    pub(super) async fn settle(
        &mut self,
        order: &Order,
        expected: (OrderStatus, SagaState),
    ) -> anyhow::Result<Vec<String>> {
        self.settle_saga(&order.order_id, &order.saga_id, expected)
            .await
    }

    /// The same for any saga of an order.
    pub(super) async fn settle_saga(
        &mut self,
        order_id: &str,
        saga_id: &str,
        expected: (OrderStatus, SagaState),
    ) -> anyhow::Result<Vec<String>> {
        let settled = async {
            let events = history::whole(&mut self.sagas, saga_id).await?;
            let saga = sagas::get(&mut self.sagas, saga_id).await?;
            let order = self.shop.until(order_id, expected.0).await?;
            anyhow::Ok((events, saga, order))
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        let (events, saga, order) = settled.with_context(|| {
            format!("order {order_id} takes more than {} s", PATIENCE.as_secs())
        })??;
        let drawn = timeline::draw(&saga, &events);
        let status = short(order.status().as_str_name(), "ORDER_STATUS_");
        output::line(&format!(
            "   order {order_id} is {status}, {}",
            output::money(order.total.as_ref())
        ));
        for line in drawn.lines() {
            output::line(format!("   {line}").trim_end());
        }
        let mut complaints = Vec::new();
        if order.status() != expected.0 {
            complaints.push(format!(
                "order {order_id} is {status}, not {}",
                short(expected.0.as_str_name(), "ORDER_STATUS_")
            ));
        }
        if saga.state() != expected.1 {
            let states =
                [saga.state(), expected.1].map(|state| short(state.as_str_name(), "SAGA_STATE_"));
            complaints.push(format!(
                "saga {saga_id} is {}, not {}",
                states[0], states[1]
            ));
        }
        Ok(complaints)
    }

    /// Holds back, or releases, all saga commands to a participant.
    pub(super) async fn pause(&mut self, name: &str, paused: bool) -> anyhow::Result<()> {
        let (name, operator) = (name.to_owned(), "demo".to_owned());
        let answer = if paused {
            let request = PauseParticipantRequest {
                name,
                operator,
                reason: "part of the demo".into(),
            };
            self.operators
                .pause_participant(connect::request(request))
                .await
                .map(|_| ())
        } else {
            let request = ResumeParticipantRequest { name, operator };
            self.operators
                .resume_participant(connect::request(request))
                .await
                .map(|_| ())
        };
        Ok(answer
            .map_err(|status| from_status("coordinator", "steering a participant", &status))?)
    }

    /// Kills the first process of a service, or of the control plane, as `kill -9` does. The answer tells when it is back.
    pub(super) fn kill(&self, service: &str) -> anyhow::Result<Back> {
        let levers = self.levers.get(service).and_then(|all| all.first());
        let levers = levers.with_context(|| format!("nobody can kill {service}"))?;
        let mut ready = levers.ready.subscribe();
        ready.mark_unchanged();
        levers.crash.send_modify(|count| *count += 1);
        Ok(Back {
            service: service.to_owned(),
            ready,
        })
    }

    /// Returns once an attempt of `step` is under way.
    pub(super) async fn until_dispatched(
        &mut self,
        saga_id: &str,
        step: &str,
    ) -> anyhow::Result<()> {
        let dispatched = history::until_step(&mut self.sagas, saga_id, step);
        tokio::time::timeout(PATIENCE, dispatched)
            .await
            .with_context(|| format!("step {step} was never begun"))?
    }
}

/// A process that was killed.
pub(super) struct Back {
    service: String,
    ready: watch::Receiver<bool>,
}

impl Back {
    /// Returns once the launcher has started it again, and it is ready.
    pub(super) async fn wait(mut self) -> anyhow::Result<()> {
        let back = async {
            // That it is gone, then that it is there.
            self.ready.changed().await?;
            self.ready.wait_for(|ready| *ready).await?;
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, back)
            .await
            .with_context(|| format!("{} does not come back", self.service))?
    }
}
