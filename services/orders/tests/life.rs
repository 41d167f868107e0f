//! What becomes of an order: steps, cancellations, refunds, and those who watch.

mod support;

use std::time::Duration;

use sagamesh_api::saga::v1::{AbortCause, SagaState};
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, GetOrderRequest, ListOrdersRequest, OrderStatus, WatchOrderRequest,
};
use support::{Participant, World, reason, request, undone};
use tonic::Code;

#[tokio::test]
async fn a_watcher_sees_every_change_until_the_end() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    world.coordinator.started(&id).await;
    let watch = WatchOrderRequest {
        order_id: id.clone(),
        customer_id: "alice".to_owned(),
    };
    let mut changes = orders
        .client
        .clone()
        .watch_order(watch)
        .await
        .expect("watched")
        .into_inner();
    let first = changes
        .message()
        .await
        .expect("open")
        .expect("a message")
        .order
        .expect("the order as it is");
    assert_eq!(first.status(), OrderStatus::Pending);

    assert_eq!(world.coordinator.step(Participant::lock(&id)).await, Ok(()));
    assert_eq!(
        world.coordinator.step(Participant::confirm(&id)).await,
        Ok(())
    );
    let mut etags = vec![first.etag];
    let mut last = OrderStatus::Pending;
    while let Some(change) = changes.message().await.expect("open") {
        if let Some(order) = change.order {
            last = order.status();
            etags.push(order.etag);
        }
    }
    assert_eq!(last, OrderStatus::Confirmed);
    let mut sorted = etags.clone();
    sorted.dedup();
    assert_eq!(etags, sorted, "nothing is told twice");
    assert!(etags.len() >= 3, "{etags:?}");

    // A watch of what has ended tells so and ends.
    let watch = WatchOrderRequest {
        order_id: id.clone(),
        customer_id: "alice".to_owned(),
    };
    let mut changes = orders
        .client
        .clone()
        .watch_order(watch)
        .await
        .expect("watched")
        .into_inner();
    assert_eq!(
        changes
            .message()
            .await
            .expect("open")
            .expect("one")
            .order
            .expect("the order")
            .status(),
        OrderStatus::Confirmed
    );
    assert!(changes.message().await.expect("closed well").is_none());
    orders.stop().await;
}

#[tokio::test]
async fn other_customers_orders_do_not_exist() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    let mut client = orders.client.clone();
    let bob = "bob".to_owned();
    let get = GetOrderRequest {
        order_id: id.clone(),
        customer_id: bob.clone(),
        min_position: 0,
    };
    let watch = WatchOrderRequest {
        order_id: id.clone(),
        customer_id: bob.clone(),
    };
    let cancel = CancelOrderRequest {
        order_id: id.clone(),
        customer_id: bob.clone(),
        ..CancelOrderRequest::default()
    };
    let statuses = [
        client.get_order(get).await.map(|_| ()).expect_err("hidden"),
        client
            .watch_order(watch)
            .await
            .map(|_| ())
            .expect_err("hidden"),
        client
            .cancel_order(cancel)
            .await
            .map(|_| ())
            .expect_err("hidden"),
        orders
            .get("0198c5f0-0000-7000-8000-000000000009", 0)
            .await
            .map(|_| ())
            .expect_err("missing"),
        orders
            .get("garbage", 0)
            .await
            .map(|_| ())
            .expect_err("missing"),
    ];
    for status in statuses {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::NotFound, "ORDER_NOT_FOUND")
        );
    }
    let listed = client
        .list_orders(ListOrdersRequest {
            customer_id: bob,
            ..ListOrdersRequest::default()
        })
        .await;
    assert!(listed.expect("listed").into_inner().orders.is_empty());
    assert!(!orders.get(&id, 0).await.expect("hers").cancel_requested);
    orders.stop().await;
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let world = World::new().await;
    let orders = world.orders().await;
    let mut ids = Vec::new();
    let mut position = 0;
    for _ in 0..7 {
        // Ids are ordered by the clock.
        world.clock.advance(Duration::from_millis(1));
        let answer = orders
            .client
            .clone()
            .place_order(request())
            .await
            .expect("placed")
            .into_inner();
        position = answer.position;
        ids.insert(0, answer.order.expect("an order").order_id);
    }
    let list = |customer: &str, status: OrderStatus| ListOrdersRequest {
        customer_id: customer.to_owned(),
        status: status.into(),
        page_size: 3,
        min_position: position,
        ..ListOrdersRequest::default()
    };
    for customer in ["", "alice"] {
        for status in [OrderStatus::Unspecified, OrderStatus::Pending] {
            let (mut found, mut pages, mut token) = (Vec::new(), 0, String::new());
            loop {
                let page = ListOrdersRequest {
                    page_token: token,
                    ..list(customer, status)
                };
                let page = orders
                    .client
                    .clone()
                    .list_orders(page)
                    .await
                    .expect("listed")
                    .into_inner();
                found.extend(page.orders.into_iter().map(|order| order.order_id));
                pages += 1;
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
                let other = ListOrdersRequest {
                    page_token: token.clone(),
                    ..list("bob", status)
                };
                let status = orders
                    .client
                    .clone()
                    .list_orders(other)
                    .await
                    .expect_err("another filter");
                assert_eq!(status.code(), Code::InvalidArgument);
            }
            assert_eq!((found, pages), (ids.clone(), 3));
        }
    }
    let none = orders
        .client
        .clone()
        .list_orders(list("alice", OrderStatus::Confirmed))
        .await
        .expect("listed")
        .into_inner();
    assert!(none.orders.is_empty() && none.next_page_token.is_empty());
    for bad in [
        ListOrdersRequest {
            page_size: -1,
            ..ListOrdersRequest::default()
        },
        ListOrdersRequest {
            status: 99,
            ..ListOrdersRequest::default()
        },
        ListOrdersRequest {
            page_token: "x".to_owned(),
            ..ListOrdersRequest::default()
        },
    ] {
        let status = orders
            .client
            .clone()
            .list_orders(bad)
            .await
            .expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    orders.stop().await;
}

#[tokio::test]
async fn a_saga_that_is_undone_rejects_its_order() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    assert_eq!(world.coordinator.step(Participant::lock(&id)).await, Ok(()));
    let reject = Participant::reject(&id, "CARD_DECLINED", "the card was declined");
    assert_eq!(world.coordinator.step(reject).await, Ok(()));
    assert_eq!(world.coordinator.step(reject).await, Ok(()), "again");
    let order = orders.until(&id, OrderStatus::Rejected).await;
    assert_eq!(
        (
            order.rejection_reason.as_str(),
            order.rejection_message.as_str()
        ),
        ("CARD_DECLINED", "the card was declined")
    );
    let status = orders.cancel(&id).await.expect_err("nothing to cancel");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "ORDER_REJECTED")
    );
    // The doing that comes after its undoing.
    let late = world
        .coordinator
        .step(Participant {
            step: "other",
            ..Participant::lock(&id)
        })
        .await;
    assert_eq!(
        late,
        Err(("rejected".to_owned(), "ORDER_NOT_PENDING".to_owned()))
    );
    orders.stop().await;
}

/// The barrier: an undoing without a doing ends the order too, and the doing that comes late is refused.
#[tokio::test]
async fn an_undoing_that_comes_first_ends_the_order() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    assert_eq!(
        world
            .coordinator
            .step(Participant::reject(&id, "DEADLINE", "it took too long"))
            .await,
        Ok(())
    );
    let order = orders.until(&id, OrderStatus::Rejected).await;
    assert_eq!(order.rejection_reason, "DEADLINE");
    let late = world.coordinator.step(Participant::lock(&id)).await;
    assert!(matches!(late, Err((kind, _)) if kind == "rejected"));
    orders.stop().await;
}

#[tokio::test]
async fn cancelling_a_pending_order_undoes_its_saga() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    assert_eq!(world.coordinator.step(Participant::lock(&id)).await, Ok(()));
    let order = orders.cancel(&id).await.expect("cancelled");
    assert_eq!(
        (order.status(), order.cancel_requested),
        (OrderStatus::Pending, true)
    );
    assert!(
        world
            .coordinator
            .until("cancelled", |state| state
                .sagas
                .get(&id)
                .map(|saga| saga.cancels)
                .filter(|cancels| *cancels >= 1))
            .await
            >= 1
    );
    assert!(orders.cancel(&id).await.expect("twice").cancel_requested);
    assert_eq!(
        world
            .coordinator
            .step(Participant::reject(&id, "CANCELLED", ""))
            .await,
        Ok(())
    );
    let order = orders.until(&id, OrderStatus::Rejected).await;
    assert_eq!(
        (order.rejection_reason.as_str(), order.cancel_requested),
        ("CANCELLED", false)
    );
    assert_eq!(
        orders.cancel(&id).await.expect("again").status(),
        OrderStatus::Rejected
    );
    orders.stop().await;
}

/// The saga was cancelled before its first step: no step ever tells the order.
#[tokio::test]
async fn cancelling_before_the_first_step_still_ends_the_order() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    world.coordinator.started(&id).await;
    orders.cancel(&id).await.expect("cancelled");
    world.coordinator.with(|state| {
        undone(
            &mut state.sagas.get_mut(&id).expect("there").saga,
            AbortCause::Cancelled,
        )
    });
    let order = orders.until(&id, OrderStatus::Rejected).await;
    assert_eq!(order.rejection_reason, "CANCELLED");
    orders.stop().await;
}

#[tokio::test]
async fn a_cancelled_order_refuses_the_lock_and_ends() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    orders.cancel(&id).await.expect("cancelled");
    let refused = world.coordinator.step(Participant::lock(&id)).await;
    assert_eq!(
        refused,
        Err(("rejected".to_owned(), "ORDER_CANCELLED".to_owned()))
    );
    assert_eq!(
        orders
            .until(&id, OrderStatus::Rejected)
            .await
            .rejection_reason,
        "CANCELLED"
    );
    // The same attempt again has the same answer.
    let again = world.coordinator.step(Participant::lock(&id)).await;
    assert_eq!(
        again,
        Err(("rejected".to_owned(), "ORDER_CANCELLED".to_owned()))
    );
    orders.stop().await;
}

#[tokio::test]
async fn cancelling_too_late_becomes_a_refund() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    assert_eq!(world.coordinator.step(Participant::lock(&id)).await, Ok(()));
    world.coordinator.with(|state| state.too_late = true);
    // It has taken effect: the order will be refunded.
    let order = orders.cancel(&id).await.expect("on record");
    assert_eq!(
        (order.status(), order.cancel_requested),
        (OrderStatus::Pending, true)
    );

    assert_eq!(
        world.coordinator.step(Participant::confirm(&id)).await,
        Ok(())
    );
    let order = orders.until(&id, OrderStatus::Refunding).await;
    let saga = world.coordinator.started(&order.refund_saga_id).await;
    assert_eq!(saga.definition, "refund-order");
    assert_ne!(order.refund_saga_id, id);
    assert_eq!(
        world
            .coordinator
            .step(Participant::refunded(&id, &order.refund_saga_id))
            .await,
        Ok(())
    );
    let order = orders.until(&id, OrderStatus::Refunded).await;
    assert!(!order.cancel_requested);
    orders.stop().await;
}

#[tokio::test]
async fn cancelling_a_confirmed_order_refunds_it_once() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    for step in [
        Participant::lock(&id),
        Participant::confirm(&id),
        Participant::confirm(&id),
    ] {
        assert_eq!(world.coordinator.step(step).await, Ok(()));
    }
    let cancelled = futures_util::future::join_all((0..5).map(|_| orders.cancel(&id))).await;
    let sagas: Vec<_> = cancelled
        .into_iter()
        .map(|order| order.expect("cancelled").refund_saga_id)
        .collect();
    assert!(
        !sagas[0].is_empty() && sagas.iter().all(|saga| *saga == sagas[0]),
        "{sagas:?}"
    );
    world.coordinator.started(&sagas[0]).await;
    orders.stop().await;
    assert_eq!(world.coordinator.with(|state| state.sagas.len()), 2);
}

#[tokio::test]
async fn a_cancellation_is_told_from_another_by_its_request_id() {
    let world = World::new().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    let cancel = CancelOrderRequest {
        order_id: id.clone(),
        customer_id: "alice".to_owned(),
        reason: "late".to_owned(),
        request_id: uuid::Uuid::now_v7().to_string(),
    };
    let mut client = orders.client.clone();
    client
        .cancel_order(cancel.clone())
        .await
        .expect("cancelled");
    client.cancel_order(cancel.clone()).await.expect("replayed");
    let other = CancelOrderRequest {
        reason: "other".to_owned(),
        ..cancel
    };
    let status = client.cancel_order(other).await.expect_err("reused");
    assert_eq!(reason(&status), "REQUEST_ID_REUSED");
    orders.stop().await;
}

/// A crash after a cancellation was recorded, with a coordinator that was never asked.
#[tokio::test]
async fn a_recorded_cancellation_survives_a_crash() {
    let world = World::on_simulated_disk().await;
    let orders = world.orders().await;
    let id = orders.place(&request()).await.expect("placed").order_id;
    world.coordinator.started(&id).await;
    world.coordinator.with(|state| state.sagas_down = true);
    orders.cancel(&id).await.expect("on record");
    world.crash(orders).await;
    world.coordinator.with(|state| state.sagas_down = false);
    let orders = world.orders().await;
    world
        .coordinator
        .until("asked after the restart", |state| {
            (state.sagas[&id].cancels > 0).then_some(())
        })
        .await;
    orders.stop().await;
}

/// The saga's deadline passed before its first step, and orders was not there to see it.
#[tokio::test]
async fn an_order_left_behind_by_its_saga_is_found() {
    let world = World::new().await;
    let orders = world.orders().await;
    let left = orders.place(&request()).await.expect("placed").order_id;
    let running = orders.place(&request()).await.expect("placed").order_id;
    let lost = orders.place(&request()).await.expect("placed").order_id;
    for id in [&left, &running, &lost] {
        world.coordinator.started(id).await;
    }
    orders.stop().await;
    world.coordinator.with(|state| {
        undone(
            &mut state.sagas.get_mut(&left).expect("there").saga,
            AbortCause::Deadline,
        );
        // A coordinator that was restored from a backup does not know this one.
        state.sagas.remove(&lost);
    });
    world.clock.advance(Duration::from_secs(60));
    let orders = world.orders().await;
    let order = orders.until(&left, OrderStatus::Rejected).await;
    assert_eq!(order.rejection_reason, "DEADLINE");
    world.coordinator.started(&lost).await;
    assert_eq!(
        orders.get(&running, 0).await.expect("there").status(),
        OrderStatus::Pending
    );
    assert_eq!(
        world
            .coordinator
            .with(|state| state.sagas[&running].saga.state()),
        SagaState::Running
    );
    orders.stop().await;
}
