//! Customers who order without a pause, and what is done to the system meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use sagamesh_api::shop::orders::v1::OrderStatus;
use serde_json::json;

use crate::system::signal;
use crate::{System, books, rest};

/// Customers that order at the same time, each one order after the other.
const CUSTOMERS: usize = 4;
/// What is put in stock of each item: more than they can buy.
const STOCKED: u64 = 1_000_000;
/// The items, with their prices in cents.
const ITEMS: [(&str, i64); 2] = [("tea", 450), ("cup", 900)];

/// A shop with customers.
#[derive(Debug)]
pub struct Customers {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<anyhow::Result<Vec<String>>>,
}

impl Customers {
    /// Fills the stock and begins to order.
    ///
    /// # Errors
    /// When the shop refuses.
    pub async fn start(system: &System) -> anyhow::Result<Self> {
        for (sku, cents) in ITEMS {
            system.restock(sku, STOCKED, cents).await?;
        }
        let mut customers = Self {
            stop: Arc::default(),
            accepted: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        for number in 0..CUSTOMERS {
            let token = system.token(&format!("customer-{number}")).await?;
            customers.tasks.spawn(customer(
                number,
                system.gateway()?,
                token,
                customers.stop.clone(),
                customers.accepted.clone(),
            ));
        }
        Ok(customers)
    }

    /// Orders that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more orders were accepted.
    ///
    /// # Errors
    /// When none gets through for long.
    pub async fn more(&self, orders: usize) -> anyhow::Result<()> {
        let enough = self.accepted() + orders;
        let waiting = async {
            while self.accepted() < enough {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waiting)
            .await
            .context("no order gets through")
    }

    /// Lets each finish the order that it is at. The ids of all that were accepted.
    ///
    /// # Errors
    /// What a customer was told that is no reason to try again.
    pub async fn stop(mut self) -> anyhow::Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut ids = Vec::new();
        while let Some(placed) = self.tasks.join_next().await {
            ids.extend(placed??);
        }
        Ok(ids)
    }
}

/// What came of the orders, once they had time to end.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Accepted, and not there.
    pub lost: Vec<String>,
    /// There, though nobody ordered them.
    pub doubled: Vec<String>,
    /// Not ended.
    pub stuck: Vec<String>,
    /// Ended otherwise than the payment method says: a fault made the shop give up.
    pub given_up: Vec<String>,
}

impl Outcome {
    /// Waits until every order has ended, or `patience` does.
    ///
    /// # Errors
    /// When the shop does not answer.
    pub async fn of(system: &System, ids: &[String], patience: Duration) -> anyhow::Result<Self> {
        let begun = std::time::Instant::now();
        let orders = loop {
            // A service may still be on its way back.
            match books::orders(system).await {
                Ok(orders) if orders.iter().all(books::ended) || begun.elapsed() > patience => {
                    break orders;
                }
                Err(error) if begun.elapsed() > patience => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let mut outcome = Self::default();
        for id in ids {
            if !orders.iter().any(|order| order.order_id == *id) {
                outcome.lost.push(id.clone());
            }
        }
        for order in &orders {
            let described = || format!("{} is {:?}", order.order_id, order.status());
            if !ids.contains(&order.order_id) {
                outcome.doubled.push(described());
            }
            let declined = order.payment_method == "pm_declined";
            if !books::ended(order) {
                outcome.stuck.push(described());
            } else if (order.status() != OrderStatus::Confirmed) != declined {
                outcome.given_up.push(described());
            }
        }
        Ok(outcome)
    }
}

/// Checks books and stock, and that no saga is open. What is wrong.
///
/// # Errors
/// When the shop does not answer.
pub async fn rest_state(system: &System) -> anyhow::Result<Option<String>> {
    let stocked = ITEMS.map(|(sku, _)| (sku, STOCKED));
    if let Err(error) = books::check(system, &stocked).await {
        return Ok(Some(format!("{error:#}")));
    }
    open_sagas(system).await
}

/// The sagas that have not ended, if there are any.
///
/// # Errors
/// When the coordinator does not answer.
pub async fn open_sagas(system: &System) -> anyhow::Result<Option<String>> {
    let mut arguments = vec!["saga", "list", "-o", "json"];
    for state in ["running", "compensating", "parked"] {
        arguments.extend(["--state", state]);
    }
    let open = system.sagamesh(&arguments).await?;
    let none = serde_json::from_str::<serde_json::Value>(&open)? == json!({});
    Ok((!none).then(|| format!("sagas stay open: {open}")))
}

/// How one customer pays, in turn. Flaky and slow banks have one order each: failures of several in a row would open the
/// circuit breaker around the bank for a minute.
fn payment_method(customer: usize, order: usize) -> &'static str {
    match (customer, order) {
        (0, 1) => "pm_flaky",
        (1, _) if order % 16 == 3 => "pm_slow",
        _ if order % 4 == 2 => "pm_declined",
        _ => "pm_ok",
    }
}

/// Orders until told to stop; returns the ids of the orders that were accepted. What was not answered is asked again
/// under the same key, as a client should.
async fn customer(
    number: usize,
    gateway: String,
    token: String,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let method = payment_method(number, ids.len());
        let body = json!({"lines": [{"sku": "tea", "quantity": 2}, {"sku": "cup", "quantity": 1}], "payment_method": method, "currency": "EUR"});
        let key = uuid::Uuid::now_v7().to_string();
        loop {
            let headers = [("idempotency-key", key.as_str())];
            let answer = rest::send(
                Method::POST,
                &gateway,
                "/v1/orders",
                Some(&token),
                &headers,
                Some(body.to_string()),
            )
            .await;
            match answer {
                Ok(answer) if matches!(answer.status, 201 | 202) => {
                    ids.push(
                        answer.json["order_id"]
                            .as_str()
                            .context("an order without id")?
                            .to_owned(),
                    );
                    accepted.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                // Away, overloaded, or in between: the same request again.
                Ok(answer) if matches!(answer.status, 429 | 500 | 503 | 504) => {}
                Ok(answer) => anyhow::bail!(
                    "an order was refused with {}: {}",
                    answer.status,
                    answer.text
                ),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(ids)
}

/// What happens to a process.
#[derive(Clone, Copy, Debug)]
pub enum Blow {
    /// `kill -9`.
    Kill,
    /// It is stopped, as in a rollout.
    Roll,
    /// It stands still for longer than any lease, and goes on then.
    Freeze,
}

/// Longer than a lease of the coordinator, and than what takes over then.
const FROZEN: Duration = Duration::from_secs(8);

impl Blow {
    /// Strikes, and waits until the process is back.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn strike(self, system: &System, service: &str) -> anyhow::Result<()> {
        match self {
            Blow::Kill => {
                let before = system.kill(service).await?;
                system.until_back(service, before).await
            }
            Blow::Roll => {
                let before = system.roll(service).await?;
                system.until_back(service, before).await
            }
            Blow::Freeze => {
                let pid = system.pid(service)?.context("it does not run")?;
                signal("-STOP", pid).await?;
                tokio::time::sleep(FROZEN).await;
                signal("-CONT", pid).await
            }
        }
    }
}
