//! What must be true after every scenario, once nothing is under way: the books balance, and no stock is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sagamesh_api::shop::orders::v1::OrderStatus;
use sagamesh_api::shop::payments::v1::GetTrialBalanceRequest;

use super::stage::Stage;
use crate::commands::stock;
use crate::connect;
use crate::failure::from_status;

/// How long the read side may take to show the last events.
const LAG: Duration = Duration::from_secs(10);

/// What is wrong, once the read sides have had time to follow.
pub(super) async fn books_and_stock(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let (sold, owed) = sold(stage).await?;
        let mut complaints = stock_complaints(stage, &sold).await?;
        complaints.extend(book_complaints(stage, owed).await?);
        if complaints.is_empty() || begun.elapsed() > LAG {
            return Ok(complaints);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the confirmed orders hold: quantities by SKU, and their sum in minor units.
async fn sold(stage: &mut Stage) -> anyhow::Result<(BTreeMap<String, u64>, i64)> {
    let mut sold: BTreeMap<String, u64> = BTreeMap::new();
    let mut owed = 0;
    for order_id in stage.orders.clone() {
        let order = stage.shop.get(&order_id).await?;
        if order.status() == OrderStatus::Confirmed {
            owed += order.total.as_ref().map_or(0, |total| total.minor_units);
            for line in order.lines {
                *sold.entry(line.sku).or_default() += u64::from(line.quantity);
            }
        }
    }
    Ok((sold, owed))
}

async fn stock_complaints(
    stage: &mut Stage,
    sold: &BTreeMap<String, u64>,
) -> anyhow::Result<Vec<String>> {
    let items = stock::items(&mut stage.inventory).await?;
    let mut complaints = Vec::new();
    for (sku, stocked) in &stage.stocked {
        let Some(item) = items.iter().find(|item| item.sku == *sku) else {
            complaints.push(format!("{sku} is gone from the list of items"));
            continue;
        };
        let sold = sold.get(*sku).copied().unwrap_or(0);
        if item.reserved != 0 || item.available + sold != *stocked {
            complaints.push(format!(
                "stock of {sku}: {stocked} came in and {sold} were sold, but {} are available and {} reserved",
                item.available, item.reserved
            ));
        }
    }
    Ok(complaints)
}

async fn book_complaints(stage: &mut Stage, owed: i64) -> anyhow::Result<Vec<String>> {
    let answer = stage
        .payments
        .get_trial_balance(connect::request(GetTrialBalanceRequest {}))
        .await;
    let books = answer
        .map_err(|status| from_status("payments", "reading the books", &status))?
        .into_inner();
    let mut complaints = Vec::new();
    if !books.balanced {
        complaints.push(format!("the books do not balance: {:?}", books.sums));
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
    if of("merchant:").abs() != owed {
        complaints.push(format!(
            "the merchant has {}, the confirmed orders are worth {owed} (minor units)",
            of("merchant:")
        ));
    }
    if of("authorized:") != 0 {
        complaints.push(format!(
            "{} minor units are still held on cards",
            of("authorized:")
        ));
    }
    Ok(complaints)
}
