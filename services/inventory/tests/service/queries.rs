//! The gRPC reads.

use std::time::Duration;

use chassis::problem::{fields, reason};
use participant::Outcome;
use sagamesh_api::shop::inventory::v1 as api;
use sagamesh_api::shop::inventory::v1::inventory_service_server::InventoryService as _;
use tonic::{Code, Request};

use crate::shop::Shop;

fn line(sku: &str, quantity: u32) -> api::StockLine {
    api::StockLine {
        sku: sku.into(),
        quantity,
    }
}

#[tokio::test]
async fn availability_of_known_unknown_and_scarce_items() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    shop.stock("cup", 10).await;
    shop.stock("bean", 2).await;
    shop.item("bean").await;
    let check = async |lines: Vec<api::StockLine>| {
        let request = api::CheckAvailabilityRequest { lines };
        shop.api
            .check_availability(Request::new(request))
            .await
            .map(|response| response.into_inner())
    };
    let good = check(vec![line("cup", 10), line("bean", 1)]).await.unwrap();
    assert!(good.available);
    assert_eq!(good.lines[0].unit_price.as_ref().unwrap().minor_units, 250);
    let scarce = check(vec![line("bean", 3), line("cup", 1)]).await.unwrap();
    assert!(!scarce.available);
    assert_eq!(
        (
            scarce.lines[0].sku.as_str(),
            scarce.lines[0].requested,
            scarce.lines[0].available
        ),
        ("bean", 3, 2)
    );
    let unknown = check(vec![line("cup", 1), line("spoon", 1)]).await.unwrap();
    assert!(
        !unknown.available && unknown.lines[1].unknown && unknown.lines[1].unit_price.is_none()
    );

    for (lines, field) in [
        (vec![], "lines"),
        (
            (0..51)
                .map(|number| line(&format!("s{number}"), 1))
                .collect(),
            "lines",
        ),
        (vec![line("cup", 0)], "lines[0].quantity"),
        (vec![line("cup", 10_001)], "lines[0].quantity"),
        (vec![line("cup", 1), line("cup", 2)], "lines[1].sku"),
        (vec![line("a b", 1)], "lines[0].sku"),
    ] {
        let status = check(lines).await.unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)[0].0.as_str()),
            (Code::InvalidArgument, field)
        );
    }
}

#[tokio::test]
async fn a_position_beyond_the_log_is_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let request = Request::new(api::GetItemRequest {
        sku: "cup".into(),
        min_position: 1_000,
    });
    let read = shop.api.get_item(request);
    let status = chassis::deadline::within(Duration::from_millis(50), read)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), chassis::problem::reason(&status).as_deref()),
        (Code::OutOfRange, Some("POSITION_OUT_OF_RANGE"))
    );
}

#[tokio::test]
async fn items_are_listed_by_sku_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    for sku in ["c", "a", "e", "b", "d"] {
        shop.stock(sku, 1).await;
    }
    shop.item("d").await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = api::ListItemsRequest {
            page_size: 2,
            page_token,
        };
        let page = shop
            .api
            .list_items(Request::new(request))
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.items.into_iter().map(|item| item.sku));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    for (request, field) in [
        (
            api::ListItemsRequest {
                page_size: -1,
                page_token: String::new(),
            },
            "page_size",
        ),
        (
            api::ListItemsRequest {
                page_size: 0,
                page_token: "x".into(),
            },
            "page_token",
        ),
    ] {
        let status = shop
            .api
            .list_items(Request::new(request))
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)[0].0.as_str()),
            (Code::InvalidArgument, field)
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let get = async |sku: &str| {
        shop.api
            .get_item(Request::new(api::GetItemRequest {
                sku: sku.into(),
                min_position: 0,
            }))
            .await
            .unwrap_err()
    };
    let status = get("spoon").await;
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::NotFound, Some("UNKNOWN_SKU"))
    );
    assert_eq!(get("").await.code(), Code::InvalidArgument);
    let status = shop.reservation("nobody").await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::NotFound, Some("RESERVATION_UNKNOWN"))
    );
    assert_eq!(
        shop.reservation("a/b").await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_changed_item_has_another_etag() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    shop.stock("cup", 1).await;
    let before = shop.item("cup").await;
    assert_eq!(shop.item("cup").await.etag, before.etag);
    shop.reserve("o", r#"[{"sku":"cup","quantity":1}]"#).await;
    assert_ne!(shop.item("cup").await.etag, before.etag);
}

#[tokio::test]
async fn a_rebuilt_projection_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    shop.stock("cup", 9).await;
    for order in ["a", "b", "c"] {
        assert_eq!(
            shop.reserve(order, r#"[{"sku":"cup","quantity":2}]"#).await,
            Outcome::done()
        );
    }
    shop.release("a").await;
    shop.commit("b").await;
    let before = (
        shop.item("cup").await,
        shop.reservation("a").await.unwrap(),
        shop.reservation("c").await.unwrap(),
    );
    shop.ledger.rebuild("shelf").await.unwrap();
    let after = (
        shop.item("cup").await,
        shop.reservation("a").await.unwrap(),
        shop.reservation("c").await.unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(
        (after.0.available, after.0.reserved, after.0.committed),
        (5, 2, 2)
    );
}
