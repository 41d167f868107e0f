//! The same on PostgreSQL, with two replicas that follow the same feed.

mod support;

use ledger::StoreConfig;
use sagamesh_api::shop::notifications::v1::{ListNotificationsRequest, NotificationState};
use support::{FakeMailer, FakeOrders, Running, order_id, quiet_coordinator};

#[tokio::test]
async fn two_replicas_on_postgresql_record_everything_once() {
    let Some(cluster) = ledger::testing::postgres().await else {
        return;
    };
    let (orders, coordinator, mailer) = (
        FakeOrders::start().await,
        quiet_coordinator().await,
        FakeMailer::default(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = StoreConfig::postgres(cluster.database().await, "notifications");
    let (url, at) = (orders.url.clone(), coordinator.url());
    let start = async || {
        Running::start(
            store.clone(),
            folder.path(),
            &url,
            &at,
            Some(mailer.clone()),
        )
        .await
    };
    let one = start().await;
    // It has made the tables.
    assert!(
        one.list(ListNotificationsRequest::default())
            .await
            .is_empty()
    );
    let two = start().await;
    let ids: Vec<_> = (0..5).map(|_| order_id()).collect();
    for id in &ids {
        orders.placed(id, "alice@example.com").await;
    }
    orders.rejected(&ids[0], "too little stock").await;
    for id in &ids {
        one.until(&format!("{id}.receipt"), NotificationState::Sent)
            .await;
    }
    two.until(&format!("{}.rejection", ids[0]), NotificationState::Sent)
        .await;
    let mut sent = mailer.until(6).await;
    sent.sort();
    let mut expected: Vec<_> = ids.iter().map(|id| format!("{id}.receipt")).collect();
    expected.push(format!("{}.rejection", ids[0]));
    expected.sort();
    assert_eq!(sent, expected);

    let first = ListNotificationsRequest {
        customer_id: "alice".to_owned(),
        page_size: 4,
        ..ListNotificationsRequest::default()
    };
    let page = two
        .client
        .clone()
        .list_notifications(first.clone())
        .await
        .expect("listed")
        .into_inner();
    let rest = two
        .list(ListNotificationsRequest {
            page_token: page.next_page_token,
            ..first
        })
        .await;
    let mut all: Vec<_> = page
        .notifications
        .into_iter()
        .chain(rest)
        .map(|found| found.notification_id)
        .collect();
    all.sort();
    assert_eq!(all, expected);
    let of_one = ListNotificationsRequest {
        order_id: ids[0].clone(),
        ..ListNotificationsRequest::default()
    };
    assert_eq!(two.list(of_one).await.len(), 2);
    one.stop().await;
    two.stop().await;
    orders.stop().await;
}
