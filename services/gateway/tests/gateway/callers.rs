//! What callers get: composed answers, streams, gRPC and gRPC-Web.

use http::{Method, StatusCode};
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use sagamesh_api::saga::v1::{GetSagaRequest, StartSagaRequest};
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{
    GetOrderRequest, OrderStatus, PlaceOrderRequest, WatchOrderRequest, WatchOrderResponse,
};
use serde_json::json;

use crate::Outcome;
use crate::rig::{Rig, endless, new_order};

#[tokio::test]
async fn an_order_is_placed_waited_for_and_joined() -> Outcome {
    let rig = Rig::start(&[]).await;
    let token = rig.token("ann");
    let bearer = format!("Bearer {token}");
    let id = uuid::Uuid::now_v7().to_string();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", id.as_str()),
        ("prefer", "wait=5"),
    ];
    let placed = rig
        .send(
            Method::POST,
            "/v1/orders",
            &headers,
            &new_order().to_string(),
        )
        .await;
    assert_eq!(
        (
            placed.status,
            placed.header("preference-applied"),
            placed.header("sagamesh-position")
        ),
        (StatusCode::CREATED, "wait=5", "7")
    );
    assert_eq!(
        (
            placed.json()["order_id"].as_str(),
            placed.json()["status"].as_str()
        ),
        (Some(id.as_str()), Some("CONFIRMED"))
    );

    // Inventory and notifications are down: the rest is there, and what is missing is named.
    let joined = rig.get(&format!("/v1/orders/{id}"), &token).await.json();
    assert_eq!(joined["payment"]["state"], "CAPTURED");
    assert_eq!(
        (&joined["reservation"], &joined["partial"]),
        (&json!(null), &json!(["reservation", "notifications"]))
    );
    let dashboard = rig.get("/v1/me/dashboard", &token).await.json();
    assert_eq!(
        (&dashboard["counts"], &dashboard["partial"]),
        (&json!({"CONFIRMED": 1}), &json!(["notifications"]))
    );
    let down = rig.get("/v1/items", &token).await;
    assert_eq!(down.status, StatusCode::SERVICE_UNAVAILABLE, "{down:?}");
    let refused = rig
        .post(
            &format!("/v1/orders/{id}/cancel"),
            &token,
            &json!({"reason": "late"}),
        )
        .await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn changes_come_as_server_sent_events() -> Outcome {
    let rig = Rig::start(&[]).await;
    let token = rig.token("ann");
    let placed = rig.post("/v1/orders", &token, &new_order()).await;
    let events = rig
        .get(&format!("{}/events", placed.header("location")), &token)
        .await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    let names: Vec<&str> = events
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    assert_eq!(names, ["order", "order", "end"], "{}", events.body);
    assert!(
        events.body.contains("id: 2") && events.body.contains("\"status\":\"CONFIRMED\""),
        "{}",
        events.body
    );
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn grpc_and_grpc_web_on_the_same_port() -> Outcome {
    let rig = Rig::start(&[]).await;
    let mut client = OrderServiceClient::connect(format!("http://{}", rig.address)).await?;
    let status = client
        .get_order(GetOrderRequest::default())
        .await
        .expect_err("no token");
    assert_eq!(status.code(), tonic::Code::Unauthenticated);

    let authorised = |message| {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert(
            "authorization",
            format!("Bearer {}", rig.token("ann"))
                .parse()
                .expect("ascii"),
        );
        request
    };
    // The customer is whom the token names, whatever the request says.
    let place = PlaceOrderRequest {
        request_id: "o1".to_owned(),
        customer_id: "bob".to_owned(),
        ..Default::default()
    };
    let order = client
        .place_order(authorised(place))
        .await?
        .into_inner()
        .order
        .ok_or("an order")?;
    assert_eq!(order.customer_id, "ann");
    let mut request = tonic::Request::new(WatchOrderRequest {
        order_id: "o1".to_owned(),
        customer_id: "bob".to_owned(),
    });
    request.metadata_mut().insert(
        "authorization",
        format!("Bearer {}", rig.token("ann")).parse()?,
    );
    let mut changes = client.watch_order(request).await?.into_inner();
    let mut last = None;
    while let Some(change) = changes.message().await? {
        last = change.order.map(|order| order.status()).or(last);
    }
    assert_eq!(last, Some(OrderStatus::Confirmed));

    // gRPC-Web over HTTP/1.1: an empty message in, a message and trailers out.
    let headers = [
        ("content-type", "application/grpc-web+proto"),
        ("x-grpc-web", "1"),
        ("authorization", &*format!("Bearer {}", rig.token("ann"))),
    ];
    let listed = rig
        .send(
            Method::POST,
            "/shop.orders.v1.OrderService/ListOrders",
            &headers,
            "\0\0\0\0\0",
        )
        .await;
    assert_eq!(
        (listed.status, listed.header("content-type")),
        (StatusCode::OK, "application/grpc-web+proto"),
        "{listed:?}"
    );
    assert!(
        listed.body.contains("o1") && listed.body.contains("grpc-status:0"),
        "{listed:?}"
    );
    rig.stop().await;
    Ok(())
}

/// Watches an order over gRPC.
async fn watch(
    rig: &Rig,
    order_id: String,
    token: &str,
) -> Result<tonic::Streaming<WatchOrderResponse>, tonic::Status> {
    let connected = OrderServiceClient::connect(format!("http://{}", rig.address)).await;
    let mut request = tonic::Request::new(WatchOrderRequest {
        order_id,
        customer_id: String::new(),
    });
    let bearer = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    let answer = connected.expect("connected").watch_order(request).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn long_answers_end_when_the_gateway_shuts_down() -> Outcome {
    let rig = Rig::start(&["--drain-timeout", "30s"]).await;
    let token = rig.token("ann");
    let path = endless(&rig, &token).await;
    let events_path = format!("{path}/events");
    let id = path.rsplit('/').next().ok_or("an id")?.to_owned();

    let mut watch = watch(&rig, id, &token).await?;
    watch.message().await?.ok_or("the order as it is")?;

    let bearer = format!("Bearer {token}");
    let mut order = new_order();
    order["payment_method"] = json!("pm_forever");
    let order = order.to_string();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("prefer", "wait=60"),
    ];
    let waited = rig.send(Method::POST, "/v1/orders", &headers, &order);
    let events = rig.get(&events_path, &token);
    // Each is asked for before the drain begins: they are polled in this order.
    let drained = async {
        watch_begun(&rig, &token, 2).await;
        rig.gateway.begin_drain();
        watch.message().await
    };
    let (waited, events, watched) = tokio::join!(waited, events, drained);
    assert_eq!(waited.status, StatusCode::ACCEPTED, "{waited:?}");
    assert!(events.body.contains("event: error"), "{events:?}");
    let status = watched.expect_err("the stream is cut");
    assert_eq!(
        (status.code(), chassis::problem::reason(&status).as_deref()),
        (tonic::Code::Unavailable, Some("SHUTTING_DOWN"))
    );
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn long_answers_end_with_the_token() -> Outcome {
    let rig = Rig::start(&[]).await;
    let path = endless(&rig, &rig.token("ann")).await;
    let id = path.rsplit('/').next().ok_or("an id")?.to_owned();
    // Expired, and good for what the clocks may differ.
    let mut claims = rig.claims("ann");
    claims["exp"] = json!(jsonwebtoken::get_current_timestamp() - 2);
    let token = rig.sign(&claims);

    let events_path = format!("{path}/events");
    let watched = async {
        let mut watch = watch(&rig, id, &token).await?;
        watch.message().await?;
        watch.message().await
    };
    let (watched, events) = tokio::join!(watched, rig.get(&events_path, &token));
    let status = watched.expect_err("the stream ends with the token");
    assert_eq!(
        (status.code(), chassis::problem::reason(&status).as_deref()),
        (tonic::Code::Unauthenticated, Some("TOKEN_EXPIRED"))
    );
    assert!(
        events.body.contains("event: order") && events.body.contains("TOKEN_EXPIRED"),
        "{events:?}"
    );
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn clients_take_another_connection_before_the_gateway_goes() -> Outcome {
    let rig = Rig::start(&["--drain-delay", "60s"]).await;
    let before = rig.get("/v1/orders", &rig.token("alice")).await;
    assert_eq!(before.headers.get("connection"), None, "{before:?}");
    rig.gateway.begin_drain();
    let during = rig.get("/v1/orders", &rig.token("alice")).await;
    assert_eq!(during.status, StatusCode::OK);
    assert_eq!(during.header("connection"), "close");
    let refused = rig.send(Method::GET, "/v1/orders", &[], "").await;
    assert_eq!(refused.header("connection"), "close");
    rig.stop().await;
    Ok(())
}

/// Returns when this many orders of the caller are known, so that what was sent before has arrived.
async fn watch_begun(rig: &Rig, token: &str, orders: usize) {
    loop {
        let list = rig.get("/v1/orders", token).await.json();
        if list["orders"]
            .as_array()
            .is_some_and(|all| all.len() >= orders)
        {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sagas_of_own_orders_alone_and_read_only() -> Outcome {
    let rig = Rig::start(&[]).await;
    let placed = rig
        .post("/v1/orders", &rig.token("ann"), &new_order())
        .await;
    let saga_id = placed.json()["order_id"]
        .as_str()
        .ok_or("an id")?
        .to_owned();
    let ask = |subject: &str| {
        let mut request = tonic::Request::new(GetSagaRequest {
            saga_id: saga_id.clone(),
        });
        let bearer = format!("Bearer {}", rig.token(subject))
            .parse()
            .expect("ascii");
        request.metadata_mut().insert("authorization", bearer);
        request
    };
    let mut client = SagaServiceClient::connect(format!("http://{}", rig.address)).await?;
    let own = client
        .get_saga(ask("ann"))
        .await
        .expect_err("no coordinator in this rig");
    assert_eq!(
        own.code(),
        tonic::Code::Unavailable,
        "ann was let through: {own:?}"
    );
    let foreign = client.get_saga(ask("bob")).await.expect_err("not bob's");
    assert_eq!(foreign.code(), tonic::Code::NotFound);
    let mut start = tonic::Request::new(StartSagaRequest::default());
    *start.metadata_mut() = ask("ann").metadata().clone();
    let refused = client.start_saga(start).await.expect_err("not here");
    assert_eq!(
        chassis::problem::reason(&refused).as_deref(),
        Some("NOT_AT_THE_GATEWAY")
    );
    rig.stop().await;
    Ok(())
}
