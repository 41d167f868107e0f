//! Restock: idempotent by request id, and bounded.

use chassis::problem::{fields, reason};
use sagamesh_api::shop::v1::Money;
use tonic::Code;

use crate::shop::{Shop, request};

#[tokio::test]
async fn the_same_request_again_changes_nothing_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let wanted = request("cup", 5);
    let first = shop.restock(wanted.clone()).await.unwrap();
    assert_eq!(first.position, 1);
    assert_eq!(first.item, Some(shop.item("cup").await));
    assert_eq!(shop.restock(wanted.clone()).await.unwrap().item, first.item);
    shop.stock("cup", 7).await;
    // The answer of then, not of now.
    assert_eq!(shop.restock(wanted.clone()).await.unwrap().item, first.item);
    shop.stop().await;
    let shop = Shop::open(folder.path()).await;
    assert_eq!(shop.restock(wanted.clone()).await.unwrap().item, first.item);
    assert_eq!(shop.counts("cup").await, (12, 0, 0));

    let mut other = wanted;
    other.quantity = 6;
    let status = shop.restock(other).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::AlreadyExists, Some("REQUEST_ID_REUSED"))
    );
    assert_eq!(shop.counts("cup").await, (12, 0, 0));
}

#[tokio::test]
async fn the_same_request_at_the_same_time_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let wanted = request("cup", 5);
    let answers =
        futures_util::future::join_all((0..20).map(|_| shop.restock(wanted.clone()))).await;
    for answer in &answers {
        assert_eq!(
            answer.as_ref().unwrap().item,
            answers[0].as_ref().unwrap().item
        );
    }
    assert_eq!(shop.counts("cup").await, (5, 0, 0));
}

#[tokio::test]
async fn bad_requests_name_every_field() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let mut wrong = request("no/sku", 0);
    wrong.request_id = "1".into();
    wrong.name = "x".repeat(201);
    wrong.unit_price = Some(Money {
        minor_units: -1,
        currency: "euro".into(),
    });
    let status = shop.restock(wrong).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let found: Vec<String> = fields(&status)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    let expected = [
        "request_id",
        "sku",
        "quantity",
        "name",
        "unit_price.minor_units",
        "unit_price.currency",
    ];
    assert_eq!(found, expected);

    let mut nameless = request("cup", 1);
    nameless.name = "  ".into();
    let status = shop.restock(nameless).await.unwrap_err();
    assert_eq!(
        (status.code(), fields(&status)[0].0.as_str()),
        (Code::InvalidArgument, "name")
    );
    let mut priceless = request("cup", 1);
    priceless.unit_price = None;
    let status = shop.restock(priceless).await.unwrap_err();
    assert_eq!(
        (status.code(), fields(&status)[0].0.as_str()),
        (Code::InvalidArgument, "unit_price")
    );
    let too_many = shop.restock(request("cup", u64::MAX)).await.unwrap_err();
    assert_eq!(fields(&too_many)[0].0, "quantity");
    assert_eq!(shop.ledger.head(), 0);
}

#[tokio::test]
async fn limits_hold_over_several_requests() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    shop.stock("cup", 999_999_999).await;
    shop.stock("cup", 1).await;
    let status = shop.restock(request("cup", 1)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::FailedPrecondition, Some("STOCK_LIMIT_EXCEEDED"))
    );

    shop.stock("bean", 1).await;
    let mut dollars = request("bean", 1);
    dollars.unit_price = Some(Money {
        minor_units: 1,
        currency: "USD".into(),
    });
    let status = shop.restock(dollars).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::FailedPrecondition, Some("CURRENCY_MISMATCH"))
    );
    let mut plain = request("bean", 4);
    plain.name = String::new();
    plain.unit_price = None;
    let item = shop.restock(plain).await.unwrap().item.unwrap();
    assert_eq!(
        (
            item.available,
            item.name.as_str(),
            item.unit_price.unwrap().minor_units
        ),
        (5, "Thing bean", 250)
    );
}

#[tokio::test]
async fn the_catalogue_is_stocked_once() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    inventory::catalogue::seed(&shop.ledger).await.unwrap();
    let before = shop.item("limited-print").await;
    assert_eq!(before.available, 3);
    inventory::catalogue::seed(&shop.ledger).await.unwrap();
    shop.stop().await;
    let shop = Shop::open(folder.path()).await;
    inventory::catalogue::seed(&shop.ledger).await.unwrap();
    assert_eq!(shop.item("limited-print").await, before);
    assert_eq!(
        shop.item("coffee-beans").await.unit_price.unwrap().currency,
        "EUR"
    );
}
