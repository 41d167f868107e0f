//! The whole system as its users meet it: over REST, over gRPC and through the command line.

use std::time::Duration;

use http::Method;
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{
    GetOrderRequest, OrderLine, OrderStatus, PlaceOrderRequest, WatchOrderRequest,
};
use sagamesh_tests::{System, books, rest};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

const WAIT: (&str, &str) = ("prefer", "wait=60");

fn order(sku: &str, quantity: i64, payment_method: &str) -> serde_json::Value {
    json!({"lines": [{"sku": sku, "quantity": quantity}], "payment_method": payment_method, "currency": "EUR"})
}

/// Places an order over REST and waits for its end.
async fn place_and_wait(
    gateway: &str,
    token: &str,
    body: &serde_json::Value,
) -> anyhow::Result<rest::Answer> {
    rest::send(
        Method::POST,
        gateway,
        "/v1/orders",
        Some(token),
        &[WAIT],
        Some(body.to_string()),
    )
    .await
}

#[tokio::test]
async fn an_order_over_rest_is_confirmed_or_undone() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (gateway, token) = (system.gateway()?, system.token("alice").await?);
    let item = json!({"quantity": 10, "name": "Tea", "unit_price": {"minor_units": 450, "currency": "EUR"}});
    let stocked = rest::post(&gateway, "/v1/items/tea/restock", Some(&token), &item).await?;
    assert_eq!(stocked.status, 200, "{}", stocked.text);

    let good = place_and_wait(&gateway, &token, &order("tea", 3, "pm_ok")).await?;
    assert_eq!(
        (good.status, good.json["status"].as_str()),
        (201, Some("CONFIRMED")),
        "{}",
        good.text
    );
    assert_eq!(
        good.json["total"],
        json!({"minor_units": 1350, "currency": "EUR"})
    );
    let location = good.headers["location"].to_str()?.to_owned();
    let details = rest::get(&gateway, &location, Some(&token)).await?;
    assert_eq!(
        details.json["payment"]["state"], "CAPTURED",
        "{}",
        details.text
    );
    assert_eq!(
        details.json["reservation"]["state"], "COMMITTED",
        "{}",
        details.text
    );
    assert_eq!(details.json["partial"], json!([]), "{}", details.text);

    let bad = place_and_wait(&gateway, &token, &order("tea", 2, "pm_declined")).await?;
    assert_eq!(
        (bad.status, bad.json["status"].as_str()),
        (201, Some("REJECTED")),
        "{}",
        bad.text
    );
    assert_ne!(
        bad.json["rejection_reason"].as_str().unwrap_or_default(),
        "",
        "{}",
        bad.text
    );

    let foreign = rest::get(&gateway, &location, Some(&system.token("mallory").await?)).await?;
    assert_eq!(foreign.status, 404, "{}", foreign.text);
    books::check(&system, &[("tea", 10)]).await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn an_order_over_grpc_is_watched_to_its_end() -> anyhow::Result<()> {
    let system = System::start().await?;
    system.restock("mouse", 5, 4_500).await?;
    let token = system.token("bob").await?;
    let channel = chassis::channel(&chassis::Env::system(), &system.gateway()?);
    let mut client = OrderServiceClient::new(channel);
    let request = PlaceOrderRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        lines: vec![OrderLine {
            sku: "mouse".into(),
            quantity: 2,
            unit_price: None,
        }],
        payment_method: "pm_ok".into(),
        currency: "EUR".into(),
        ..Default::default()
    };
    let placed = client
        .place_order(authorized(request.clone(), &token)?)
        .await?
        .into_inner()
        .order
        .unwrap_or_default();
    assert_eq!(placed.status(), OrderStatus::Pending);
    assert_eq!(placed.customer_id, "bob");
    let again = client
        .place_order(authorized(request.clone(), &token)?)
        .await?
        .into_inner()
        .order
        .unwrap_or_default();
    assert_eq!(
        again.order_id, placed.order_id,
        "the same request is the same order"
    );
    let other = PlaceOrderRequest {
        payment_method: "pm_declined".into(),
        ..request
    };
    let refused = client
        .place_order(authorized(other, &token)?)
        .await
        .err()
        .map(|status| (status.code(), reason(&status)));
    assert_eq!(
        refused,
        Some((Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()))
    );

    let watch = WatchOrderRequest {
        order_id: placed.order_id.clone(),
        customer_id: String::new(),
    };
    let mut changes = client
        .watch_order(authorized(watch, &token)?)
        .await?
        .into_inner();
    let mut last = OrderStatus::Unspecified;
    while let Some(change) = changes.message().await? {
        if let Some(order) = change.order {
            last = order.status();
        }
        if last == OrderStatus::Confirmed {
            break;
        }
    }
    assert_eq!(last, OrderStatus::Confirmed);
    let unknown = GetOrderRequest {
        order_id: uuid::Uuid::now_v7().to_string(),
        ..Default::default()
    };
    assert_eq!(
        client
            .get_order(authorized(unknown, &token)?)
            .await
            .err()
            .map(|status| status.code()),
        Some(Code::NotFound)
    );
    books::check(&system, &[("mouse", 5)]).await?;
    system.stop().await?;
    Ok(())
}

/// A request in the name of the holder of a token.
fn authorized<T>(message: T, token: &str) -> anyhow::Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    Ok(request)
}

fn reason(status: &tonic::Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

#[tokio::test]
async fn bad_input_is_refused_by_field_and_changes_nothing() -> anyhow::Result<()> {
    let system = System::start().await?;
    system.restock("tea", 10, 450).await?;
    let (gateway, token) = (system.gateway()?, system.token("alice").await?);
    let lines = |lines: serde_json::Value| json!({"lines": lines, "payment_method": "pm_ok", "currency": "EUR"});
    let cases = [
        ("no lines", lines(json!([])), 400, "lines"),
        ("no quantity", order("tea", 0, "pm_ok"), 400, "quantity"),
        ("negative", order("tea", -1, "pm_ok"), 400, "quantity"),
        ("huge", order("tea", 10_001, "pm_ok"), 400, "quantity"),
        (
            "beyond 32 bits",
            order("tea", 1 << 40, "pm_ok"),
            400,
            "quantity",
        ),
        ("unknown SKU", order("coffee", 1, "pm_ok"), 400, "sku"),
        ("malformed SKU", order("te a", 1, "pm_ok"), 400, "sku"),
        (
            "the same SKU twice",
            lines(json!([{"sku": "tea", "quantity": 1}, {"sku": "tea", "quantity": 1}])),
            400,
            "sku",
        ),
        (
            "malformed payment method",
            order("tea", 1, "4111 1111 1111 1111"),
            400,
            "payment_method",
        ),
        (
            "other currency",
            json!({"lines": [{"sku": "tea", "quantity": 1}], "payment_method": "pm_ok", "currency": "USD"}),
            400,
            "currency",
        ),
        (
            "other price",
            lines(
                json!([{"sku": "tea", "quantity": 1, "unit_price": {"minor_units": 1, "currency": "EUR"}}]),
            ),
            400,
            "unit_price",
        ),
        (
            "unknown field",
            json!({"lines": [], "payment_method": "pm_ok", "currency": "EUR", "colour": 1}),
            400,
            "colour",
        ),
        (
            "missing field",
            json!({"lines": [{"sku": "tea", "quantity": 1}], "currency": "EUR"}),
            400,
            "payment_method",
        ),
        (
            "too much",
            order("tea", 11, "pm_ok"),
            409,
            "INSUFFICIENT_STOCK",
        ),
    ];
    for (name, body, status, names) in cases {
        let answer = rest::post(&gateway, "/v1/orders", Some(&token), &body).await?;
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
        assert!(answer.text.contains(names), "{name}: {}", answer.text);
        assert_eq!(
            answer.headers["content-type"], "application/problem+json",
            "{name}"
        );
        assert_ne!(
            answer.json["reason"].as_str().unwrap_or_default(),
            "",
            "{name}: {}",
            answer.text
        );
    }
    // What only the bank can know is refused by the bank: the order does not come about.
    let unknown = place_and_wait(&gateway, &token, &order("tea", 1, "pm_none")).await?;
    assert_eq!(unknown.json["status"], "REJECTED", "{}", unknown.text);
    assert_eq!(
        unknown.json["rejection_reason"], "UNKNOWN_PAYMENT_METHOD",
        "{}",
        unknown.text
    );
    let garbage = rest::send(
        Method::POST,
        &gateway,
        "/v1/orders",
        Some(&token),
        &[],
        Some("{\"lines\":".into()),
    )
    .await?;
    assert_eq!(garbage.status, 400, "{}", garbage.text);
    for (token, name) in [
        (None, "none"),
        (Some("x"), "garbage"),
        (Some("eyJhbGciOiJub25lIn0.e30."), "alg none"),
    ] {
        let answer = rest::post(&gateway, "/v1/orders", token, &order("tea", 1, "pm_ok")).await?;
        assert_eq!(answer.status, 401, "{name}: {}", answer.text);
    }
    let reader = system
        .sagamesh(&["token", "--scopes", "orders:read"])
        .await?;
    let answer = rest::post(
        &gateway,
        "/v1/orders",
        Some(reader.trim()),
        &order("tea", 1, "pm_ok"),
    )
    .await?;
    assert_eq!(answer.status, 403, "{}", answer.text);
    for path in [
        "/v1/orders/no-uuid",
        "/v1/orders/019a0000-0000-7000-8000-00000000dead",
        "/v1/items/none",
    ] {
        let answer = rest::get(&gateway, path, Some(&token)).await?;
        assert!(
            matches!(answer.status, 400 | 404),
            "{path}: {}",
            answer.text
        );
    }
    assert_eq!(
        books::orders(&system).await?.len(),
        1,
        "only the order that the bank refused"
    );
    books::check(&system, &[("tea", 10)]).await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_command_line_serves_people_and_programs() -> anyhow::Result<()> {
    let system = System::start().await?;
    let stocked = system
        .sagamesh(&[
            "stock", "restock", "tea", "10", "--name", "Tea", "--price", "450EUR",
        ])
        .await?;
    assert!(stocked.contains("4.50 EUR"), "{stocked}");
    let placed = system
        .sagamesh(&["order", "place", "tea=2", "-o", "json"])
        .await?;
    let placed: serde_json::Value = serde_json::from_str(&placed)?;
    let id = placed["orderId"].as_str().unwrap_or_default().to_owned();
    let watched = system.sagamesh(&["order", "watch", &id]).await?;
    assert!(watched.contains("CONFIRMED"), "{watched}");
    system.sagamesh(&["saga", "watch", &id]).await?;
    let timeline = system.sagamesh(&["saga", "get", &id]).await?;
    for expected in [
        "COMPLETED after",
        "capture-payment",
        "doing, attempt 1",
        "send-confirmation",
        "ended COMPLETED",
    ] {
        assert!(timeline.contains(expected), "{expected} in {timeline}");
    }
    let saga: serde_json::Value =
        serde_json::from_str(&system.sagamesh(&["saga", "get", &id, "-o", "json"]).await?)?;
    assert_eq!(saga["state"], "SAGA_STATE_COMPLETED");
    let listed = system
        .sagamesh(&[
            "saga",
            "list",
            "--definition",
            "place-order",
            "--limit",
            "5",
        ])
        .await?;
    assert!(listed.contains(&id), "{listed}");
    let definitions = system.sagamesh(&["definitions", "list"]).await?;
    assert!(
        definitions.contains("place-order") && definitions.contains("refund-order"),
        "{definitions}"
    );
    let participants = system.sagamesh(&["participants", "list"]).await?;
    for name in ["orders", "inventory", "payments", "notifications"] {
        assert!(participants.contains(name), "{participants}");
    }
    assert!(system.sagamesh(&["books"]).await?.contains("balance"));
    assert!(system.sagamesh(&["status"]).await?.contains("ready"));

    let declined = system
        .run(&[
            "order",
            "place",
            "tea",
            "--payment-method",
            "pm_declined",
            "--wait",
        ])
        .await?;
    assert_eq!(
        declined.status.code(),
        Some(5),
        "{}",
        String::from_utf8_lossy(&declined.stdout)
    );
    let refused = system.run(&["order", "place", "nothing"]).await?;
    assert_eq!(refused.status.code(), Some(4));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("sku"),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
    let unknown = system.run(&["saga", "get", "no-such-saga"]).await?;
    assert_eq!(
        unknown.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&unknown.stderr)
    );

    let cancelled = system
        .sagamesh(&["order", "cancel", &id, "--reason", "does not fit"])
        .await?;
    assert!(cancelled.contains("REFUND"), "{cancelled}");
    books::settled(&system, Duration::from_secs(30)).await?;
    books::check(&system, &[("tea", 10)]).await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_gateway_shows_what_it_has_while_a_service_is_away() -> anyhow::Result<()> {
    let arguments = vec![
        "--services".into(),
        "coordinator,orders,inventory,payments,gateway".into(),
    ];
    let options = sagamesh_tests::Options {
        arguments,
        ..Default::default()
    };
    let system = System::start_with(options).await?;
    system.restock("tea", 10, 450).await?;
    let (gateway, token) = (system.gateway()?, system.token("alice").await?);
    let placed = rest::post(
        &gateway,
        "/v1/orders",
        Some(&token),
        &order("tea", 1, "pm_ok"),
    )
    .await?;
    assert_eq!(placed.status, 202, "{}", placed.text);
    let id = placed.json["order_id"].as_str().unwrap_or_default();
    let details = rest::get(&gateway, &format!("/v1/orders/{id}"), Some(&token)).await?;
    assert_eq!(details.status, 200, "{}", details.text);
    assert_eq!(
        details.json["partial"],
        json!(["notifications"]),
        "{}",
        details.text
    );
    system.stop().await?;
    Ok(())
}
