//! The same on PostgreSQL.

use ledger::StoreConfig;
use participant::Outcome;
use sagamesh_api::shop::payments::v1 as api;
use sagamesh_api::shop::payments::v1::PaymentState;
use sagamesh_api::shop::payments::v1::payment_service_server::PaymentService as _;
use tonic::Request;

use crate::shop::{Shop, reason};

#[tokio::test]
async fn payments_and_books_on_postgres() {
    let Some(cluster) = ledger::testing::postgres().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::on(
        StoreConfig::postgres(cluster.database().await, "payments"),
        folder.path(),
    )
    .await;
    assert_eq!(shop.authorize("held", "pm_ok").await, Outcome::done());
    assert_eq!(shop.authorize("taken", "pm_ok").await, Outcome::done());
    assert_eq!(shop.capture("taken").await, Outcome::done());
    assert_eq!(shop.capture("taken").await, Outcome::done());
    assert_eq!(
        reason(&shop.authorize("declined", "pm_declined").await),
        "CARD_DECLINED"
    );
    assert_eq!(shop.payment("taken").await.state(), PaymentState::Captured);
    assert_eq!(
        shop.payment("declined").await.state(),
        PaymentState::Declined
    );
    assert_eq!(
        shop.accounts().await,
        [
            ("authorized:EUR".into(), 1_250),
            ("customer:alice".into(), -2_500),
            ("merchant:EUR".into(), 1_250),
        ]
    );
    assert_eq!(shop.void("held").await, Outcome::done());
    assert_eq!(shop.refund("taken").await, Outcome::done());
    let balance = shop.balance().await;
    assert_eq!(
        (balance.accounts.len(), balance.position),
        (0, shop.ledger.head())
    );

    let request = api::ListPaymentsRequest {
        customer_id: "alice".into(),
        page_size: 2,
        ..Default::default()
    };
    let page = shop
        .api
        .list_payments(Request::new(request))
        .await
        .unwrap()
        .into_inner();
    let ids: Vec<&str> = page
        .payments
        .iter()
        .map(|payment| payment.payment_id.as_str())
        .collect();
    assert_eq!(ids, ["declined", "taken"]);
    shop.stop().await;
}
