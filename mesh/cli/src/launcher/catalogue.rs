//! The first stock of a new shop, so that its first commands work.

use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::inventory::v1::{ListItemsRequest, RestockRequest};
use sagamesh_api::shop::v1::Money;

use crate::connect;
use crate::failure::from_status;
use crate::system::System;

/// An item of a new shop: SKU, name, quantity, price in cents, id of the request that adds it.
const ITEMS: [(&str, &str, u64, i64, &str); 3] = [
    (
        "keyboard",
        "Mechanical keyboard",
        1_000,
        8_900,
        "019a0000-0000-7000-8000-000000000001",
    ),
    (
        "mouse",
        "Wireless mouse",
        1_000,
        4_500,
        "019a0000-0000-7000-8000-000000000002",
    ),
    (
        "monitor",
        "27 inch monitor",
        3,
        32_900,
        "019a0000-0000-7000-8000-000000000003",
    ),
];

/// Fills an empty shop; returns how many items it added.
pub(crate) async fn fill(system: &System) -> anyhow::Result<usize> {
    let mut inventory = InventoryServiceClient::new(connect::service(system, "inventory")?);
    let request = connect::request(ListItemsRequest {
        page_size: 1,
        ..Default::default()
    });
    let items = inventory
        .list_items(request)
        .await
        .map_err(|status| from_status("inventory", "looking at the stock", &status))?;
    if !items.into_inner().items.is_empty() {
        return Ok(0);
    }
    for (sku, name, quantity, cents, request_id) in ITEMS {
        let request = RestockRequest {
            request_id: request_id.into(),
            sku: sku.into(),
            quantity,
            name: name.into(),
            unit_price: Some(Money {
                minor_units: cents,
                currency: "EUR".into(),
            }),
        };
        inventory
            .restock(connect::request(request))
            .await
            .map_err(|status| from_status("inventory", "filling the shop", &status))?;
    }
    Ok(ITEMS.len())
}
