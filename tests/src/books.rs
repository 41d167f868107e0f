//! What must hold in every shop that has come to rest: the books balance, no stock leaks, every order has ended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::inventory::v1::{Item, ListItemsRequest};
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{ListOrdersRequest, Order, OrderStatus};
use sagamesh_api::shop::payments::v1::payment_service_client::PaymentServiceClient;
use sagamesh_api::shop::payments::v1::{GetTrialBalanceRequest, GetTrialBalanceResponse};

use crate::System;

/// How long the read sides may take to show the last events.
const LAG: Duration = Duration::from_secs(20);

/// Waits until every order has ended; returns all of them.
///
/// # Errors
/// When one stays open; names it.
pub async fn settled(system: &System, patience: Duration) -> anyhow::Result<Vec<Order>> {
    let begun = Instant::now();
    loop {
        let orders = orders(system).await?;
        let open: Vec<String> = orders
            .iter()
            .filter(|order| !ended(order))
            .map(|order| format!("{} is {:?}", order.order_id, order.status()))
            .collect();
        if open.is_empty() {
            return Ok(orders);
        }
        anyhow::ensure!(
            begun.elapsed() < patience,
            "orders stay open: {}",
            open.join(", ")
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether nothing more happens to an order by itself.
pub(crate) fn ended(order: &Order) -> bool {
    matches!(
        order.status(),
        OrderStatus::Confirmed | OrderStatus::Rejected | OrderStatus::Refunded
    )
}

/// Every order.
///
/// # Errors
/// What the orders service said.
pub async fn orders(system: &System) -> anyhow::Result<Vec<Order>> {
    // Customers' orders are the gateway's to ask for, and nobody else's.
    let channel = system.channel_as("gateway-0", "orders")?;
    let mut client = OrderServiceClient::new(channel);
    let mut orders = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_orders(ListOrdersRequest {
                page_size: 500,
                page_token,
                ..Default::default()
            })
            .await?
            .into_inner();
        orders.extend(page.orders);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(orders);
        }
    }
}

/// Every item.
///
/// # Errors
/// What inventory said.
pub async fn items(system: &System) -> anyhow::Result<Vec<Item>> {
    let mut client = InventoryServiceClient::new(system.channel("inventory")?);
    Ok(client
        .list_items(ListItemsRequest {
            page_size: 500,
            ..Default::default()
        })
        .await?
        .into_inner()
        .items)
}

/// The books.
///
/// # Errors
/// What payments said.
pub async fn trial_balance(system: &System) -> anyhow::Result<GetTrialBalanceResponse> {
    let mut client = PaymentServiceClient::new(system.channel("payments")?);
    Ok(client
        .get_trial_balance(GetTrialBalanceRequest {})
        .await?
        .into_inner())
}

/// Checks books and stock against the orders, once all have ended. `stocked` says what was put in stock.
///
/// # Errors
/// What is wrong.
pub async fn check(system: &System, stocked: &[(&str, u64)]) -> anyhow::Result<()> {
    let orders = settled(system, LAG).await?;
    let begun = Instant::now();
    loop {
        let wrong = complaints(system, &orders, stocked).await?;
        if wrong.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < LAG, "{}", wrong.join("; "));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn complaints(
    system: &System,
    orders: &[Order],
    stocked: &[(&str, u64)],
) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut sold: BTreeMap<&str, u64> = BTreeMap::new();
    let mut worth = 0;
    for order in orders
        .iter()
        .filter(|order| order.status() == OrderStatus::Confirmed)
    {
        worth += order.total.as_ref().map_or(0, |total| total.minor_units);
        for line in &order.lines {
            *sold.entry(&line.sku).or_default() += u64::from(line.quantity);
        }
    }
    let items = items(system).await?;
    for (sku, stocked) in stocked {
        let item = items
            .iter()
            .find(|item| item.sku == *sku)
            .with_context(|| format!("no item {sku}"))?;
        let sold = sold.get(sku).copied().unwrap_or(0);
        if item.reserved != 0 || item.available + sold != *stocked {
            wrong.push(format!(
                "{sku}: {stocked} came in, {sold} sold, {} available, {} reserved",
                item.available, item.reserved
            ));
        }
    }
    let books = trial_balance(system).await?;
    if !books.balanced {
        wrong.push(format!("the books do not balance: {:?}", books.sums));
    }
    let of = |name: &str| -> i64 {
        let accounts = books
            .accounts
            .iter()
            .filter(|account| account.name.starts_with(name));
        accounts
            .filter_map(|account| account.balance.as_ref())
            .map(|balance| balance.minor_units)
            .sum()
    };
    if of("merchant:").abs() != worth {
        wrong.push(format!(
            "the merchant has {}, confirmed orders are worth {worth}",
            of("merchant:")
        ));
    }
    if of("authorized:") != 0 {
        wrong.push(format!("{} is still held on cards", of("authorized:")));
    }
    Ok(wrong)
}
