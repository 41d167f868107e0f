//! `kill -9` of each process in turn during a stream of orders: nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use sagamesh_api::shop::orders::v1::OrderStatus;
use sagamesh_tests::system::signal;
use sagamesh_tests::{Options, System, books, rest};
use serde_json::json;

/// Customers that order at the same time, each one order after the other.
const CUSTOMERS: usize = 4;
/// Orders that must have been accepted before the next process is killed.
const BETWEEN: usize = 8;
const STOCKED: u64 = 100_000;

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

async fn until_accepted(accepted: &AtomicUsize, count: usize) -> anyhow::Result<()> {
    let waiting = async {
        while accepted.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting)
        .await
        .context("no order gets through")
}

/// What happens to a process.
#[derive(Clone, Copy, Debug)]
enum Blow {
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
    async fn strike(self, system: &System, service: &str) -> anyhow::Result<()> {
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

/// Strikes every service in turn while customers order; then everything must come to rest as it should.
async fn campaign(options: Options, blows: &[(Blow, &str)]) -> anyhow::Result<()> {
    let system = System::start_with(options).await?;
    system.restock("tea", STOCKED, 450).await?;
    system.restock("cup", STOCKED, 900).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let accepted = Arc::new(AtomicUsize::new(0));
    let mut customers = tokio::task::JoinSet::new();
    for number in 0..CUSTOMERS {
        let token = system.token(&format!("customer-{number}")).await?;
        customers.spawn(customer(
            number,
            system.gateway()?,
            token,
            stop.clone(),
            accepted.clone(),
        ));
    }
    for (blow, service) in blows {
        let so_far = accepted.load(Ordering::Relaxed);
        until_accepted(&accepted, so_far + BETWEEN)
            .await
            .with_context(|| format!("before {service}: {blow:?}"))?;
        blow.strike(&system, service).await?;
    }
    let so_far = accepted.load(Ordering::Relaxed);
    until_accepted(&accepted, so_far + BETWEEN)
        .await
        .context("after the last kill")?;
    stop.store(true, Ordering::Relaxed);
    let mut ids = Vec::new();
    while let Some(placed) = customers.join_next().await {
        ids.extend(placed??);
    }
    let orders = books::settled(&system, Duration::from_secs(120)).await?;
    for id in &ids {
        let order = orders.iter().find(|order| order.order_id == *id);
        let order = order.with_context(|| format!("order {id} was accepted and is lost"))?;
        assert!(
            matches!(
                order.status(),
                OrderStatus::Confirmed | OrderStatus::Rejected
            ),
            "{id} is {:?}",
            order.status()
        );
        let declined = order.payment_method == "pm_declined";
        assert_eq!(
            order.status() == OrderStatus::Rejected,
            declined,
            "{id}: {order:?}"
        );
    }
    assert_eq!(orders.len(), ids.len(), "as many orders as were accepted");
    books::check(&system, &[("tea", STOCKED), ("cup", STOCKED)]).await?;
    let open = system
        .sagamesh(&[
            "saga",
            "list",
            "--state",
            "running",
            "--state",
            "compensating",
            "--state",
            "parked",
            "-o",
            "json",
        ])
        .await?;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&open)?,
        json!({}),
        "sagas stay open"
    );
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn killing_each_process_in_turn_loses_nothing() -> anyhow::Result<()> {
    // A circuit breaker is meant to open when a service dies; a minute of it would only make the test longer.
    let environment = vec![("SAGAMESH_BREAKER_RECOVERY", "1s")];
    let options = Options {
        environment,
        ..Default::default()
    };
    campaign(
        options,
        &[
            "coordinator",
            "orders",
            "inventory",
            "payments",
            "notifications",
            "gateway",
            "coordinator",
        ]
        .map(|service| (Blow::Kill, service)),
    )
    .await
}

#[tokio::test]
async fn killing_replicas_on_postgres_in_turn_loses_nothing() -> anyhow::Result<()> {
    let Some(postgres) = ledger::testing::postgres().await else {
        return Ok(());
    };
    let fixed = [
        "--database-prefix",
        "crash",
        "--replicas",
        "gateway=2,orders=2,inventory=2,payments=2,notifications=2",
        "--postgres",
    ];
    let arguments = fixed.map(str::to_owned).into_iter();
    let options = Options {
        arguments: arguments.chain([postgres.url("postgres")]).collect(),
        environment: vec![("SAGAMESH_BREAKER_RECOVERY", "1s")],
        ..Default::default()
    };
    campaign(
        options,
        &[
            "payments-0",
            "orders-1",
            "inventory-0",
            "notifications-1",
            "gateway-0",
            "orders-0",
        ]
        .map(|service| (Blow::Kill, service)),
    )
    .await
}

#[tokio::test]
async fn killing_rolling_and_freezing_the_coordinators_replicas_loses_nothing() -> anyhow::Result<()>
{
    let Some(postgres) = ledger::testing::postgres().await else {
        return Ok(());
    };
    let url = postgres.url("postgres");
    let arguments = [
        "--postgres",
        &url,
        "--database-prefix",
        "three",
        "--replicas",
        "coordinator=3",
    ];
    let options = Options {
        arguments: arguments.map(str::to_owned).to_vec(),
        environment: vec![("SAGAMESH_BREAKER_RECOVERY", "1s")],
        ..Default::default()
    };
    let blows = [
        (Blow::Kill, "coordinator-0"),
        (Blow::Roll, "coordinator-1"),
        (Blow::Roll, "coordinator-2"),
        (Blow::Roll, "coordinator-0"),
        (Blow::Freeze, "coordinator-1"),
        (Blow::Kill, "coordinator-2"),
        (Blow::Kill, "coordinator-1"),
    ];
    campaign(options, &blows).await
}
