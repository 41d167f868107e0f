//! Placing orders: checks, prices, idempotency, the breaker, and the start of the saga.

mod support;

use std::time::Duration;

use orders::domain::{PLACE_ORDER, REVISION};
use sagamesh_api::saga::v1::{Definition, DefinitionVersion, value};
use sagamesh_api::shop::orders::v1::{
    ListOrdersRequest, OrderLine, OrderStatus, PlaceOrderRequest,
};
use sagamesh_api::shop::v1::Money;
use support::{Mood, World, eur, line, reason, request};
use tonic::Code;

#[tokio::test]
async fn an_order_is_placed_and_its_saga_started() {
    let world = World::new().await;
    let orders = world.orders().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut call = tonic::Request::new(request());
    call.metadata_mut()
        .insert("traceparent", trace.parse().expect("ascii"));
    let answer = orders
        .client
        .clone()
        .place_order(call)
        .await
        .expect("placed")
        .into_inner();
    let order = answer.order.expect("an order");
    assert_eq!(
        (order.status(), order.saga_id.as_str()),
        (OrderStatus::Pending, order.order_id.as_str())
    );
    assert_eq!(order.total, Some(eur(2_999)));
    assert_eq!(order.lines[0].unit_price, Some(eur(500)));
    assert_eq!(
        uuid::Uuid::parse_str(&order.order_id)
            .expect("a UUID")
            .get_version_num(),
        7
    );
    // Reading your own write.
    let read = orders
        .get(&order.order_id, answer.position)
        .await
        .expect("found");
    assert_eq!(read.create_time, order.create_time);
    assert_eq!(
        (read.lines, read.total, read.contact_email),
        (order.lines, order.total, order.contact_email)
    );

    let saga = world.coordinator.started(&order.order_id).await;
    assert_eq!(saga.definition, PLACE_ORDER);
    assert_eq!(
        saga.traceparent.expect("a trace")[3..35],
        trace[3..35],
        "one order is one trace"
    );
    assert_eq!(
        saga.input["order_id"].kind,
        Some(value::Kind::Text(order.order_id.clone()))
    );
    orders.stop().await;
    assert_eq!(world.coordinator.with(|state| state.start_calls), 1);
}

#[tokio::test]
async fn bad_requests_are_refused_field_by_field() {
    let world = World::new().await;
    let orders = world.orders().await;
    let bad = PlaceOrderRequest {
        lines: vec![line("mug", 0), line("mug", 1)],
        currency: "eu".to_owned(),
        ..request()
    };
    let status = orders.place(&bad).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let fields: Vec<_> = chassis::problem::fields(&status)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(fields, ["lines[0].quantity", "lines[1].sku", "currency"]);
    assert_eq!(world.inventory.calls(), 0, "nobody was asked");

    let unknown = PlaceOrderRequest {
        lines: vec![line("mug", 1), line("nothing", 1)],
        ..request()
    };
    let status = orders.place(&unknown).await.expect_err("refused");
    assert_eq!(
        (
            status.code(),
            chassis::problem::fields(&status)[0].0.as_str()
        ),
        (Code::InvalidArgument, "lines[1].sku")
    );

    let dear = OrderLine {
        unit_price: Some(eur(501)),
        ..line("mug", 1)
    };
    let status = orders
        .place(&PlaceOrderRequest {
            lines: vec![dear],
            ..request()
        })
        .await
        .expect_err("refused");
    assert_eq!(
        (
            status.code(),
            chassis::problem::fields(&status)[0].0.as_str()
        ),
        (Code::InvalidArgument, "lines[0].unit_price")
    );

    world.inventory.stock("mug", 1);
    let status = orders.place(&request()).await.expect_err("refused");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "INSUFFICIENT_STOCK")
    );
    let info = tonic_types::StatusExt::get_details_error_info(&status).expect("an ErrorInfo");
    assert_eq!(info.metadata["mug"], "requested=2 available=1");
    assert!(!info.metadata.contains_key("tea"));
    orders.stop().await;
    assert_eq!(world.coordinator.with(|state| state.start_calls), 0);
}

#[tokio::test]
async fn a_request_that_is_wrong_everywhere_is_refused_like_any_other() {
    let world = World::new().await;
    let orders = world.orders().await;
    let wrong = OrderLine {
        sku: "no sku".to_owned(),
        quantity: 0,
        unit_price: Some(Money {
            minor_units: -1,
            currency: "?".to_owned(),
        }),
    };
    let bad = PlaceOrderRequest {
        lines: vec![wrong; 50],
        ..request()
    };
    let status = orders.place(&bad).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(
        status.message().contains("(and 199 more)"),
        "{}",
        status.message()
    );
    assert!(!chassis::problem::fields(&status).is_empty());
    orders.stop().await;
}

#[tokio::test]
async fn the_same_request_is_the_same_order() {
    let world = World::new().await;
    let orders = world.orders().await;
    let request = request();
    let first = orders.place(&request).await.expect("placed");
    assert_eq!(
        orders.place(&request).await.expect("replayed").order_id,
        first.order_id
    );

    let other = PlaceOrderRequest {
        payment_method: "pm_slow".to_owned(),
        ..request.clone()
    };
    let status = orders.place(&other).await.expect_err("refused");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::AlreadyExists, "REQUEST_ID_REUSED")
    );
    // The same id of another customer is another request.
    let bobs = PlaceOrderRequest {
        customer_id: "bob".to_owned(),
        ..request.clone()
    };
    assert_ne!(
        orders.place(&bobs).await.expect("placed").order_id,
        first.order_id
    );

    // Whatever became of inventory meanwhile.
    world.inventory.stock("mug", 0);
    assert_eq!(
        orders.place(&request).await.expect("replayed").order_id,
        first.order_id
    );
    for mood in [Mood::Unavailable, Mood::Hung] {
        world.inventory.mood(mood);
        assert_eq!(
            orders.place(&request).await.expect("replayed").order_id,
            first.order_id,
            "{mood:?}"
        );
    }
    // Also after a restart.
    orders.stop().await;
    let orders = world.orders().await;
    assert_eq!(
        orders.place(&request).await.expect("replayed").order_id,
        first.order_id
    );
    world.crash(orders).await;
}

#[tokio::test]
async fn racing_duplicates_are_one_order() {
    let world = World::new().await;
    let orders = world.orders().await;
    let request = request();
    let placed = futures_util::future::join_all((0..20).map(|_| orders.place(&request))).await;
    let mut ids: Vec<_> = placed
        .into_iter()
        .map(|order| order.expect("placed").order_id)
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let all = orders
        .client
        .clone()
        .list_orders(ListOrdersRequest::default())
        .await
        .expect("listed")
        .into_inner()
        .orders;
    assert_eq!(all.len(), 1);
    orders.stop().await;
}

#[tokio::test]
async fn the_breaker_opens_after_five_failures_and_probes_after_a_minute() {
    let world = World::new().await;
    let orders = world.orders().await;
    world.inventory.mood(Mood::Unavailable);
    for _ in 0..5 {
        let status = orders.place(&request()).await.expect_err("refused");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "INVENTORY_UNAVAILABLE")
        );
        assert!(chassis::problem::retry_after(&status).is_some());
    }
    assert_eq!(world.inventory.calls(), 5);
    world.inventory.mood(Mood::Well);
    let status = orders.place(&request()).await.expect_err("refused");
    assert_eq!(reason(&status), "INVENTORY_UNAVAILABLE");
    assert!(chassis::problem::retry_after(&status).expect("a hint") > Duration::from_secs(30));
    assert_eq!(world.inventory.calls(), 5, "inventory is left alone");

    world.clock.advance(Duration::from_secs(61));
    orders.place(&request()).await.expect("the probe went well");
    orders.place(&request()).await.expect("closed again");
    assert_eq!(world.inventory.calls(), 7);
    orders.stop().await;
}

#[tokio::test]
async fn an_outage_of_the_coordinator_holds_nothing_up() {
    let world = World::new().await;
    let orders = world.orders().await;
    world.coordinator.with(|state| state.sagas_down = true);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(orders.place(&request()).await.expect("placed").order_id);
    }
    world
        .coordinator
        .until("orders tries", |state| {
            (state.start_calls > 20).then_some(())
        })
        .await;
    world.coordinator.with(|state| state.sagas_down = false);
    for id in &ids {
        assert_eq!(world.coordinator.started(id).await.starts, 1);
    }
    orders.stop().await;
    assert_eq!(world.coordinator.with(|state| state.sagas.len()), 20);
}

/// A crash between the commit of an order and the start of its saga loses neither.
#[tokio::test]
async fn a_crash_before_the_start_of_the_saga_loses_nothing() {
    let world = World::on_simulated_disk().await;
    let orders = world.orders().await;
    world.coordinator.with(|state| state.sagas_down = true);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(orders.place(&request()).await.expect("placed").order_id);
    }
    world.crash(orders).await;
    world.coordinator.with(|state| state.sagas_down = false);
    let orders = world.orders().await;
    for id in &ids {
        world.coordinator.started(id).await;
    }
    // Each once: what is on record as started is not started again by the next restart.
    for id in &ids {
        orders.get(id, 0).await.expect("there");
    }
    orders.stop().await;
    let orders = world.orders().await;
    orders.stop().await;
    world.coordinator.with(|state| {
        assert_eq!(
            state.sagas.keys().collect::<Vec<_>>(),
            ids.iter().collect::<Vec<_>>()
        );
        for (id, saga) in &state.sagas {
            assert_eq!(saga.starts, 1, "{id}");
        }
    });
}

#[tokio::test]
async fn an_order_whose_saga_is_refused_for_good_is_rejected() {
    let world = World::new().await;
    let orders = world.orders().await;
    world.coordinator.with(|state| state.refuses = true);
    let order = orders.place(&request()).await.expect("placed");
    let order = orders.until(&order.order_id, OrderStatus::Rejected).await;
    assert_eq!(order.rejection_reason, "SAGA_REFUSED");
    orders.stop().await;
}

#[tokio::test]
async fn definitions_are_registered_before_it_is_ready() {
    let world = World::new().await;
    world
        .coordinator
        .with(|state| state.definitions_down = true);
    let orders = world.orders().await;
    world
        .coordinator
        .with(|state| state.definitions_down = false);
    let other = world
        .coordinator
        .until("both are active", |state| {
            (state.activations == 2).then_some(())
        })
        .await;
    assert_eq!(other, ());
    orders.place(&request()).await.expect("placed");
    orders.stop().await;
    // Another start changes nothing.
    let orders = world.orders().await;
    orders.place(&request()).await.expect("placed");
    orders.stop().await;
    assert_eq!(
        world
            .coordinator
            .with(|state| (state.activations, state.definitions.len())),
        (2, 2)
    );
}

#[tokio::test]
async fn a_newer_revision_stays_active() {
    let world = World::new().await;
    let newer = Definition {
        name: PLACE_ORDER.to_owned(),
        description: format!("Newer. Revision {}.", REVISION + 1),
        ..Definition::default()
    };
    world.coordinator.with(|state| {
        state.definitions.push(DefinitionVersion {
            definition: Some(newer),
            hash: "newer".to_owned(),
            active: true,
            ..DefinitionVersion::default()
        });
    });
    let orders = world.orders().await;
    orders.place(&request()).await.expect("placed");
    orders.stop().await;
    let active: Vec<_> = world.coordinator.with(|state| {
        state
            .definitions
            .iter()
            .filter(|version| version.active)
            .map(|version| version.hash.clone())
            .collect()
    });
    assert_eq!(active.len(), 2);
    assert_eq!(active[0], "newer");
}
