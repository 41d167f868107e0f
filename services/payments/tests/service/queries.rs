//! The gRPC methods.

use std::time::Duration;

use chassis::problem::{fields, reason};
use payments::SERVICE;
use sagamesh_api::shop::payments::v1 as api;
use sagamesh_api::shop::payments::v1::payment_service_server::PaymentService as _;
use tonic::{Code, Request};

use crate::shop::Shop;

#[tokio::test]
async fn a_position_beyond_the_log_is_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let request = Request::new(api::GetPaymentRequest {
        payment_id: "p".into(),
        min_position: 1_000,
    });
    let read = shop.api.get_payment(request);
    let status = chassis::deadline::within(Duration::from_millis(50), read)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::OutOfRange, Some("POSITION_OUT_OF_RANGE"))
    );
}

#[tokio::test]
async fn payments_are_listed_newest_first_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    for number in 0..5 {
        shop.authorize(&format!("order-{number}"), "pm_ok").await;
    }
    shop.balance().await;
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = api::ListPaymentsRequest {
            customer_id: "alice".into(),
            page_size: 2,
            page_token,
        };
        let page = shop
            .api
            .list_payments(Request::new(request))
            .await
            .unwrap()
            .into_inner();
        assert!(page.payments.len() <= 2);
        seen.extend(page.payments.into_iter().map(|payment| payment.payment_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        seen,
        ["order-4", "order-3", "order-2", "order-1", "order-0"]
    );
    let all = shop
        .api
        .list_payments(Request::new(api::ListPaymentsRequest::default()))
        .await
        .unwrap();
    assert_eq!(all.into_inner().payments.len(), 5);
    let nobody = api::ListPaymentsRequest {
        customer_id: "bob".into(),
        ..Default::default()
    };
    assert!(
        shop.api
            .list_payments(Request::new(nobody))
            .await
            .unwrap()
            .into_inner()
            .payments
            .is_empty()
    );
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let request = api::GetPaymentRequest {
        payment_id: "nobody".into(),
        min_position: 0,
    };
    let status = shop
        .api
        .get_payment(Request::new(request))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_deref()),
        (Code::NotFound, Some("PAYMENT_UNKNOWN"))
    );

    let request = api::GetPaymentRequest {
        payment_id: "a/b".into(),
        min_position: 0,
    };
    let status = shop
        .api
        .get_payment(Request::new(request))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), fields(&status)[0].0.as_str()),
        (Code::InvalidArgument, "payment_id")
    );

    for (request, field) in [
        (
            api::ListPaymentsRequest {
                page_size: -1,
                ..Default::default()
            },
            "page_size",
        ),
        (
            api::ListPaymentsRequest {
                page_token: "garbage".into(),
                ..Default::default()
            },
            "page_token",
        ),
        (
            api::ListPaymentsRequest {
                customer_id: "x".repeat(129),
                ..Default::default()
            },
            "customer_id",
        ),
    ] {
        let status = shop
            .api
            .list_payments(Request::new(request))
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)[0].0.as_str()),
            (Code::InvalidArgument, field)
        );
    }
}

#[tokio::test]
async fn an_empty_book_balances() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let balance = shop.balance().await;
    assert!(balance.balanced && balance.accounts.is_empty() && balance.sums.is_empty());
    assert_eq!(SERVICE, "payments");
}

#[tokio::test]
async fn a_rebuilt_projection_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    shop.authorize("a", "pm_ok").await;
    shop.authorize("b", "pm_declined").await;
    shop.authorize("c", "pm_ok").await;
    shop.capture("c").await;
    let before = (
        shop.balance().await,
        shop.payment("b").await,
        shop.payment("c").await,
    );
    shop.ledger.rebuild("books").await.unwrap();
    let after = (
        shop.balance().await,
        shop.payment("b").await,
        shop.payment("c").await,
    );
    assert_eq!(before, after);
}
