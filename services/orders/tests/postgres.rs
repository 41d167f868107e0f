//! The same on PostgreSQL, with two replicas.

mod support;

use ledger::StoreConfig;
use sagamesh_api::shop::orders::v1::{ListOrdersRequest, OrderStatus, WatchOrderRequest};
use support::{Mood, Participant, World, request};

#[tokio::test]
async fn two_replicas_on_postgresql_are_one_service() {
    let Some(cluster) = ledger::testing::postgres().await else {
        return;
    };
    let mut world = World::new().await;
    world.store = StoreConfig::postgres(cluster.database().await, "orders");
    let one = world.orders().await;
    // It has made the tables.
    one.client
        .clone()
        .list_orders(ListOrdersRequest::default())
        .await
        .expect("listed");
    let two = world.orders().await;
    let request = request();
    let mut ids = Vec::new();
    for replica in [&one, &two, &one] {
        world.clock.advance(std::time::Duration::from_millis(1));
        let placed = replica
            .client
            .clone()
            .place_order(support::request())
            .await
            .expect("placed")
            .into_inner();
        ids.insert(0, placed.order.expect("an order").order_id);
    }
    world.clock.advance(std::time::Duration::from_millis(1));
    let placed = one
        .client
        .clone()
        .place_order(request.clone())
        .await
        .expect("placed")
        .into_inner();
    let id = placed.order.expect("an order").order_id;
    ids.insert(0, id.clone());
    assert_eq!(world.coordinator.started(&id).await.starts, 1);

    // What one wrote, the other reads, replays, lists and watches.
    assert_eq!(
        two.get(&id, placed.position).await.expect("there").order_id,
        id
    );
    assert_eq!(two.place(&request).await.expect("replayed").order_id, id);
    world.inventory.mood(Mood::Unavailable);
    assert_eq!(two.place(&request).await.expect("replayed").order_id, id);
    world.inventory.mood(Mood::Well);
    let list = |status: OrderStatus, page_token: String| ListOrdersRequest {
        customer_id: "alice".to_owned(),
        status: status.into(),
        page_size: 3,
        page_token,
        min_position: placed.position,
    };
    for status in [OrderStatus::Unspecified, OrderStatus::Pending] {
        let first = two
            .client
            .clone()
            .list_orders(list(status, String::new()))
            .await
            .expect("listed")
            .into_inner();
        let second = two
            .client
            .clone()
            .list_orders(list(status, first.next_page_token))
            .await
            .expect("listed")
            .into_inner();
        let found: Vec<_> = first
            .orders
            .into_iter()
            .chain(second.orders)
            .map(|order| order.order_id)
            .collect();
        assert_eq!(found, ids);
        assert!(second.next_page_token.is_empty());
    }

    let watch = WatchOrderRequest {
        order_id: id.clone(),
        customer_id: "alice".to_owned(),
    };
    let watched = [&one, &two].map(|replica| {
        let (mut client, watch) = (replica.client.clone(), watch.clone());
        async move {
            let mut changes = client
                .watch_order(watch)
                .await
                .expect("watched")
                .into_inner();
            let mut seen = Vec::new();
            while let Some(change) = changes.message().await.expect("open") {
                seen.extend(change.order.map(|order| order.etag));
                if seen.len() == 1 {
                    break;
                }
            }
            (changes, seen)
        }
    });
    let watched = futures_util::future::join_all(watched).await;
    assert_eq!(world.coordinator.step(Participant::lock(&id)).await, Ok(()));
    assert_eq!(
        world.coordinator.step(Participant::lock(&id)).await,
        Ok(()),
        "whichever replica it comes to"
    );
    assert_eq!(
        world.coordinator.step(Participant::confirm(&id)).await,
        Ok(())
    );
    for (mut changes, mut seen) in watched {
        let mut last = OrderStatus::Pending;
        while let Some(change) = changes.message().await.expect("open") {
            if let Some(order) = change.order {
                last = order.status();
                seen.push(order.etag);
            }
        }
        assert_eq!(last, OrderStatus::Confirmed);
        let mut once = seen.clone();
        once.dedup();
        assert_eq!(seen, once);
    }
    let refunding = two.cancel(&id).await.expect("cancelled");
    assert_eq!(refunding.status(), OrderStatus::Refunding);
    assert_eq!(
        one.cancel(&id).await.expect("twice").refund_saga_id,
        refunding.refund_saga_id
    );
    world.coordinator.started(&refunding.refund_saga_id).await;
    assert_eq!(world.coordinator.with(|state| state.sagas.len()), 5);

    // The other one knows of it at once, also before it has heard of the commit.
    for _ in 0..8 {
        world.clock.advance(std::time::Duration::from_millis(1));
        let request = support::request();
        let id = one.place(&request).await.expect("placed").order_id;
        assert_eq!(two.place(&request).await.expect("replayed").order_id, id);
        world.clock.advance(std::time::Duration::from_millis(1));
        let id = one
            .place(&support::request())
            .await
            .expect("placed")
            .order_id;
        assert_eq!(two.get(&id, 0).await.expect("there").order_id, id);
        world.clock.advance(std::time::Duration::from_millis(1));
        let order_id = one
            .place(&support::request())
            .await
            .expect("placed")
            .order_id;
        let watch = WatchOrderRequest {
            order_id,
            customer_id: "alice".to_owned(),
        };
        let mut changes = two
            .client
            .clone()
            .watch_order(watch)
            .await
            .expect("watched")
            .into_inner();
        assert!(changes.message().await.expect("open").is_some());
    }
    one.stop().await;
    two.stop().await;
}
