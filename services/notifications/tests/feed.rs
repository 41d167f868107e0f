//! Following the orders, recording, and handing over.

mod support;

use ledger::{SimulatedDisk, StoreConfig};
use notifications::mail::MailError;
use participant::testing::command;
use sagamesh_api::saga::v1::{Direction, result};
use sagamesh_api::shop::notifications::v1::{
    ListNotificationsRequest, NotificationKind, NotificationState,
};
use support::{FakeMailer, FakeOrders, Running, order_id, quiet_coordinator};
use tonic::Code;

#[tokio::test]
async fn receipts_and_rejections_follow_the_orders() {
    let (orders, coordinator, mailer) = (
        FakeOrders::start().await,
        quiet_coordinator().await,
        FakeMailer::default(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = StoreConfig::sqlite(folder.path(), "");
    let service = Running::start(
        store.clone(),
        folder.path(),
        &orders.url,
        &coordinator.url(),
        Some(mailer.clone()),
    )
    .await;
    let (one, two) = (order_id(), order_id());
    orders.placed(&one, "alice@example.com").await;
    orders.confirmed(&one).await;
    orders.placed(&two, "").await;
    orders.rejected(&one, "the card was declined").await;
    let mut sent = mailer.until(2).await;
    sent.sort();
    assert_eq!(sent, [format!("{one}.receipt"), format!("{one}.rejection")]);
    let receipt = service
        .until(&format!("{one}.receipt"), NotificationState::Sent)
        .await;
    assert_eq!(
        (receipt.customer_id.as_str(), receipt.kind()),
        ("alice", NotificationKind::Receipt)
    );
    assert!(receipt.create_time.is_some() && receipt.send_time.is_some());
    service
        .until(&format!("{one}.rejection"), NotificationState::Sent)
        .await;
    service
        .until(&format!("{two}.receipt"), NotificationState::Recorded)
        .await;
    let mails = mailer.sent.lock().unwrap().clone();
    let rejection = &mails
        .iter()
        .find(|(id, _)| id.ends_with("rejection"))
        .expect("sent")
        .1;
    assert!(
        rejection.contains("the card was declined") && rejection.contains("alice@example.com"),
        "{rejection}"
    );
    assert!(
        rejection.contains(&format!("Message-ID: <{one}.rejection@")),
        "{rejection}"
    );

    // It goes on where it stopped, and tells nothing twice.
    service.stop().await;
    let three = order_id();
    orders.placed(&three, "carol@example.com").await;
    let service = Running::start(
        store,
        folder.path(),
        &orders.url,
        &coordinator.url(),
        Some(mailer.clone()),
    )
    .await;
    assert_eq!(mailer.until(3).await[2], format!("{three}.receipt"));
    service
        .until(&format!("{three}.receipt"), NotificationState::Sent)
        .await;
    service.stop().await;
    orders.stop().await;
    assert_eq!(mailer.sent.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_stops_nobody() {
    let (orders, coordinator, mailer) = (
        FakeOrders::start().await,
        quiet_coordinator().await,
        FakeMailer::default(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = StoreConfig::sqlite(folder.path(), "");
    let id = order_id();
    orders.garbage(&order_id()).await;
    orders.placed(&id, "alice@example.com").await;
    let service = Running::start(
        store,
        folder.path(),
        &orders.url,
        &coordinator.url(),
        Some(mailer.clone()),
    )
    .await;
    assert_eq!(mailer.until(1).await, [format!("{id}.receipt")]);
    service.stop().await;
    orders.stop().await;
}

#[tokio::test]
async fn a_replaced_log_is_read_from_its_start() {
    let (orders, coordinator, mailer) = (
        FakeOrders::start().await,
        quiet_coordinator().await,
        FakeMailer::default(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = StoreConfig::sqlite(folder.path(), "");
    let (one, two) = (order_id(), order_id());
    orders.placed(&one, "alice@example.com").await;
    let url = orders.url.clone();
    let service = Running::start(
        store,
        folder.path(),
        &url,
        &coordinator.url(),
        Some(mailer.clone()),
    )
    .await;
    mailer.until(1).await;
    let port = orders.stop().await;
    // The same orders restored, and one more: what is on record is not told again.
    let orders = FakeOrders::start_at(port).await;
    orders.placed(&one, "alice@example.com").await;
    orders.placed(&two, "bob@example.com").await;
    assert_eq!(
        mailer.until(2).await,
        [format!("{one}.receipt"), format!("{two}.receipt")]
    );
    service.stop().await;
    orders.stop().await;
    assert_eq!(mailer.sent.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_owed_survives_a_crash_and_is_sent_until_it_is_taken() {
    let (orders, coordinator, mailer) = (
        FakeOrders::start().await,
        quiet_coordinator().await,
        FakeMailer::default(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let disk = SimulatedDisk::new();
    let store = StoreConfig::simulated(&disk);
    *mailer.fails.lock().unwrap() = Some(MailError::Passing("down".to_owned()));
    let service = Running::start(
        store.clone(),
        folder.path(),
        &orders.url,
        &coordinator.url(),
        Some(mailer.clone()),
    )
    .await;
    let id = order_id();
    orders.placed(&id, "alice@example.com").await;
    mailer.asked(2).await;
    service
        .until(&format!("{id}.receipt"), NotificationState::Pending)
        .await;
    service.crash(&disk).await;

    *mailer.fails.lock().unwrap() = None;
    let service = Running::start(
        store,
        folder.path(),
        &orders.url,
        &coordinator.url(),
        Some(mailer.clone()),
    )
    .await;
    assert_eq!(mailer.until(1).await, [format!("{id}.receipt")]);
    service
        .until(&format!("{id}.receipt"), NotificationState::Sent)
        .await;
    service.stop().await;
    orders.stop().await;
}

#[tokio::test]
async fn steps_are_done_once_their_notification_is_on_record() {
    let (orders, mut coordinator, mailer) = (
        FakeOrders::start().await,
        quiet_coordinator().await,
        FakeMailer::default(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = StoreConfig::sqlite(folder.path(), "");
    // Also while mail cannot be handed over.
    *mailer.fails.lock().unwrap() = Some(MailError::Passing("down".to_owned()));
    let service = Running::start(
        store,
        folder.path(),
        &orders.url,
        &coordinator.url(),
        Some(mailer.clone()),
    )
    .await;
    let stream = coordinator.welcome().await;
    let id = order_id();
    let input = [
        ("order_id", id.as_str()),
        ("customer_id", "alice"),
        ("contact_email", "alice@example.com"),
        (
            "lines",
            r#"[{"sku":"mug","quantity":2,"unit_price_minor":500}]"#,
        ),
        ("total", r#"{"minor_units":1000,"currency":"EUR"}"#),
        ("reason", "broken"),
    ];
    for token in [1, 2] {
        let confirm = command(
            token,
            &id,
            "notifications.SendConfirmation",
            Direction::Action,
            &input,
        );
        assert!(matches!(
            stream.run(confirm).await,
            result::Outcome::Success(_)
        ));
    }
    let refund = command(
        3,
        "refund-saga",
        "notifications.SendRefundNotice",
        Direction::Action,
        &input,
    );
    assert!(matches!(
        stream.run(refund).await,
        result::Outcome::Success(_)
    ));
    for bad in [vec![], vec![("order_id", "../../etc/passwd")]] {
        let refused = stream
            .run(command(
                4,
                "bad-saga",
                "notifications.SendConfirmation",
                Direction::Action,
                &bad,
            ))
            .await;
        assert!(
            matches!(refused, result::Outcome::Rejection(_)),
            "{refused:?}"
        );
    }
    // Something that is no address, and input that is no JSON, hold no saga up.
    let odd_id = order_id();
    let odd = [
        ("order_id", odd_id.as_str()),
        ("contact_email", "nobody"),
        ("lines", "{"),
        ("total", ""),
    ];
    let done = stream
        .run(command(
            5,
            &odd_id,
            "notifications.SendConfirmation",
            Direction::Action,
            &odd,
        ))
        .await;
    assert!(matches!(done, result::Outcome::Success(_)));
    service
        .until(
            &format!("{odd_id}.confirmation"),
            NotificationState::Recorded,
        )
        .await;

    *mailer.fails.lock().unwrap() = None;
    let mut sent = mailer.until(2).await;
    sent.sort();
    assert_eq!(sent, [format!("{id}.confirmation"), format!("{id}.refund")]);
    let mails = mailer.sent.lock().unwrap().clone();
    assert!(
        mails
            .iter()
            .all(|(_, text)| text.contains("2 x mug") && text.contains("10.00 EUR"))
    );
    service.stop().await;
    orders.stop().await;
}

#[tokio::test]
async fn lists_are_filtered_and_paged_newest_first() {
    let (orders, coordinator, mailer) = (
        FakeOrders::start().await,
        quiet_coordinator().await,
        FakeMailer::default(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = StoreConfig::sqlite(folder.path(), "");
    let ids: Vec<_> = (0..7).map(|_| order_id()).collect();
    for id in &ids {
        orders.placed(id, "").await;
    }
    let service = Running::start(
        store,
        folder.path(),
        &orders.url,
        &coordinator.url(),
        Some(mailer),
    )
    .await;
    for id in &ids {
        service
            .until(&format!("{id}.receipt"), NotificationState::Recorded)
            .await;
    }
    let mut client = service.client.clone();
    let (mut found, mut token) = (Vec::new(), String::new());
    for page in 0..3 {
        let request = ListNotificationsRequest {
            customer_id: "alice".to_owned(),
            page_size: 3,
            page_token: token,
            ..ListNotificationsRequest::default()
        };
        let answer = client
            .list_notifications(request)
            .await
            .expect("listed")
            .into_inner();
        found.extend(
            answer
                .notifications
                .into_iter()
                .map(|found| (found.create_time.map(|time| time.seconds), found.order_id)),
        );
        token = answer.next_page_token;
        assert_eq!(token.is_empty(), page == 2);
    }
    assert!(found.is_sorted_by(|one, other| one.0 >= other.0));
    let mut all: Vec<_> = found.into_iter().map(|(_, order)| order).collect();
    all.sort();
    assert_eq!(all, ids);
    let of_one = ListNotificationsRequest {
        order_id: ids[3].clone(),
        ..ListNotificationsRequest::default()
    };
    assert_eq!(service.list(of_one).await.len(), 1);
    let of_bob = ListNotificationsRequest {
        customer_id: "bob".to_owned(),
        ..ListNotificationsRequest::default()
    };
    assert!(service.list(of_bob).await.is_empty());
    for bad in [
        ListNotificationsRequest {
            page_size: -1,
            ..ListNotificationsRequest::default()
        },
        ListNotificationsRequest {
            page_token: "x".to_owned(),
            ..ListNotificationsRequest::default()
        },
    ] {
        assert_eq!(
            client
                .list_notifications(bad)
                .await
                .expect_err("refused")
                .code(),
            Code::InvalidArgument
        );
    }
    service.stop().await;
    orders.stop().await;
}
