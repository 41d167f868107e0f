//! The gateway as its callers see it: tokens, limits, composition, streams, errors.

#[expect(clippy::expect_used, unreachable_pub, reason = "test code")]
mod rig;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rig::{Rig, new_order, stranger_key};
use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{
    GetOrderRequest, OrderStatus, PlaceOrderRequest, WatchOrderRequest,
};
use serde_json::json;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::test]
async fn tokens_that_must_not_get_in() -> Outcome {
    let rig = Rig::start(&[]).await;
    let good = rig.claims("ann");
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(rig.kid.clone());
    let now = jsonwebtoken::get_current_timestamp();
    let with = |claim: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        rig.sign(&claims)
    };
    let unsigned = |alg: &str| {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}.",
            part(json!({"alg": alg, "typ": "JWT", "kid": rig.kid})),
            part(good.clone())
        )
    };
    // The public key, which everybody can read, used as the secret of an HMAC.
    let confused = {
        let x = rig.jwks["keys"][0]["x"].as_str().ok_or("no x")?;
        let header = Header {
            kid: Some(rig.kid.clone()),
            ..Header::new(Algorithm::HS256)
        };
        jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(x.as_bytes()))?
    };
    let nameless = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &good, &rig.key)?;
    let unknown = jsonwebtoken::encode(
        &Header {
            kid: Some("other".to_owned()),
            ..header.clone()
        },
        &good,
        &stranger_key(),
    )?;
    let forged = jsonwebtoken::encode(&header, &good, &stranger_key())?;
    let mut missing = good.clone();
    missing.as_object_mut().ok_or("claims")?.remove("exp");

    for (token, reason) in [
        (unsigned("none"), "TOKEN_MALFORMED"),
        (unsigned("ES256"), "TOKEN_SIGNATURE"),
        (confused, "TOKEN_ALGORITHM"),
        (nameless, "TOKEN_KEY_UNKNOWN"),
        (unknown, "TOKEN_KEY_UNKNOWN"),
        (forged, "TOKEN_SIGNATURE"),
        (with("exp", json!(now - 60)), "TOKEN_EXPIRED"),
        (with("nbf", json!(now + 60)), "TOKEN_NOT_YET_VALID"),
        (with("iss", json!("else")), "TOKEN_ISSUER"),
        (with("aud", json!("else")), "TOKEN_AUDIENCE"),
        (with("sub", json!("")), "TOKEN_MALFORMED"),
        (rig.sign(&missing), "TOKEN_MALFORMED"),
        ("a.b.c".to_owned(), "TOKEN_MALFORMED"),
        ("x".repeat(9000), "TOKEN_MALFORMED"),
    ] {
        let answer = rig.get("/v1/orders", &token).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::UNAUTHORIZED, reason),
            "{token}: {answer:?}"
        );
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
        assert!(
            !answer.body.contains(&token),
            "the token must not come back"
        );
    }
    let nobody = rig.send(Method::GET, "/v1/orders", &[], "").await;
    assert_eq!(
        (nobody.status, nobody.reason().as_str()),
        (StatusCode::UNAUTHORIZED, "TOKEN_MISSING")
    );
    assert_eq!(
        rig.get("/v1/orders", &rig.token("ann")).await.status,
        StatusCode::OK
    );
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn scopes_and_foreign_orders() -> Outcome {
    let rig = Rig::start(&[]).await;
    let mut reader = rig.claims("ann");
    reader["scope"] = json!("orders:read");
    let refused = rig
        .post("/v1/orders", &rig.sign(&reader), &new_order())
        .await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::FORBIDDEN, "SCOPE_MISSING")
    );
    assert_eq!(refused.json()["context"]["scope"], "orders:write");

    let placed = rig
        .post("/v1/orders", &rig.token("ann"), &new_order())
        .await;
    assert_eq!(placed.status, StatusCode::ACCEPTED, "{placed:?}");
    let path = placed.header("location").to_owned();
    assert_eq!(
        rig.get(&path, &rig.token("ann")).await.status,
        StatusCode::OK
    );
    assert_eq!(
        rig.get(&path, &rig.token("bob")).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        rig.get(&format!("{path}/events"), &rig.token("bob"))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    rig.stop().await;
    Ok(())
}

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
async fn bad_requests_name_the_field() -> Outcome {
    let rig = Rig::start(&["--max-body-bytes", "1KiB"]).await;
    let token = rig.token("ann");
    let mut negative = new_order();
    negative["lines"][0]["quantity"] = json!(-1);
    let answer = rig.post("/v1/orders", &token, &negative).await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT")
    );
    assert_eq!(answer.json()["errors"][0]["field"], "lines[0].quantity");
    let mut surplus = new_order();
    surplus["colour"] = json!("red");
    assert!(
        rig.post("/v1/orders", &token, &surplus)
            .await
            .body
            .contains("colour")
    );
    let mut refused = new_order();
    refused["payment_method"] = json!("pm_panic");
    assert_eq!(
        rig.post("/v1/orders", &token, &refused).await.json()["errors"][0]["field"],
        "lines[0].sku",
        "the service's own violations come through"
    );

    let bearer = format!("Bearer {token}");
    let with = |kind: &'static str| {
        [
            ("authorization", bearer.clone()),
            ("content-type", kind.to_owned()),
        ]
    };
    for (kind, body, status, reason) in [
        (
            "application/json",
            "{".to_owned(),
            StatusCode::BAD_REQUEST,
            "INVALID_ARGUMENT",
        ),
        (
            "text/plain",
            "{}".to_owned(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            "application/json",
            " ".repeat(2000),
            StatusCode::PAYLOAD_TOO_LARGE,
            "BODY_TOO_LARGE",
        ),
    ] {
        let headers = with(kind);
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = rig.send(Method::POST, "/v1/orders", &headers, &body).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (status, reason),
            "{answer:?}"
        );
    }
    for (method, path, status) in [
        (Method::GET, "/nowhere", StatusCode::NOT_FOUND),
        (Method::DELETE, "/v1/orders", StatusCode::METHOD_NOT_ALLOWED),
        (
            Method::GET,
            "/v1/orders?page_size=many",
            StatusCode::BAD_REQUEST,
        ),
        (
            Method::GET,
            "/v1/orders?status=LOST",
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let answer = rig
            .send(
                method,
                path,
                &[("authorization", &bearer), ("x-request-id", "mine-1")],
                "",
            )
            .await;
        assert_eq!(
            (answer.status, answer.header("x-request-id")),
            (status, "mine-1"),
            "{path}: {answer:?}"
        );
        answer.reason();
    }
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn too_many_requests_are_refused_in_the_callers_language() -> Outcome {
    let rig = Rig::start(&["--rate-per-subject", "1", "--burst-per-subject", "2"]).await;
    let token = rig.token("ann");
    let first = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (
            first.header("ratelimit-limit"),
            first.header("ratelimit-remaining")
        ),
        ("2", "1")
    );
    rig.get("/v1/orders", &token).await;
    let refused = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED")
    );
    assert_eq!(
        (
            refused.header("retry-after"),
            refused.header("ratelimit-remaining")
        ),
        ("1", "0")
    );
    assert_eq!(
        rig.get("/v1/orders", &rig.token("bob")).await.status,
        StatusCode::OK,
        "others are not held up"
    );

    let mut client = OrderServiceClient::connect(format!("http://{}", rig.address)).await?;
    let mut request = tonic::Request::new(GetOrderRequest::default());
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    let status = client
        .get_order(request)
        .await
        .expect_err("ann is over her limit");
    assert_eq!(
        (status.code(), chassis::problem::reason(&status).as_deref()),
        (tonic::Code::ResourceExhausted, Some("RATE_LIMITED"))
    );
    assert!(chassis::problem::retry_after(&status).is_some());
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

#[tokio::test]
async fn browsers_may_ask_first_and_everybody_may_read_the_description() -> Outcome {
    let rig = Rig::start(&["--cors-origins", "https://shop.example"]).await;
    let ask = |origin: &'static str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,content-type",
            ),
        ];
        let rig = &rig;
        async move { rig.send(Method::OPTIONS, "/v1/orders", &headers, "").await }
    };
    let allowed = ask("https://shop.example").await;
    assert_eq!(
        (
            allowed.status,
            allowed.header("access-control-allow-origin")
        ),
        (StatusCode::OK, "https://shop.example")
    );
    assert!(
        !ask("https://evil.example")
            .await
            .headers
            .contains_key("access-control-allow-origin")
    );

    let document = rig.send(Method::GET, "/openapi.json", &[], "").await.json();
    let token = rig.token("ann");
    for (path, operations) in document["paths"].as_object().ok_or("paths")? {
        for method in operations.as_object().ok_or("operations")?.keys() {
            let concrete = path.replace("{id}", "none").replace("{sku}", "none");
            let answer = rig
                .send(
                    method.to_uppercase().parse()?,
                    &concrete,
                    &[("authorization", &format!("Bearer {token}"))],
                    "",
                )
                .await;
            assert_ne!(
                (answer.status, answer.body.contains("NO_SUCH_PATH")),
                (StatusCode::NOT_FOUND, true),
                "{method} {path} is described but not served"
            );
            assert_ne!(
                answer.status,
                StatusCode::METHOD_NOT_ALLOWED,
                "{method} {path} is described but not served"
            );
        }
    }
    // And the other way round: every route of the source is described.
    for line in include_str!("../src/rest/mod.rs").lines() {
        if let Some(path) = line
            .split('"')
            .nth(1)
            .filter(|path| path.starts_with("/v1/"))
        {
            assert!(
                document["paths"][path].is_object(),
                "{path} is served but not described"
            );
        }
    }
    assert_eq!(
        rig.send(Method::GET, "/healthz", &[], "").await.status,
        StatusCode::OK
    );
    assert_eq!(
        rig.send(Method::GET, "/.well-known/jwks.json", &[], "")
            .await
            .json()["keys"][0]["crv"],
        "P-256"
    );
    rig.stop().await;
    Ok(())
}

/// An order that stays PENDING, and its path.
async fn endless(rig: &Rig, token: &str) -> String {
    let mut order = new_order();
    order["payment_method"] = json!("pm_forever");
    let placed = rig.post("/v1/orders", token, &order).await;
    placed.header("location").to_owned()
}

#[tokio::test]
async fn long_answers_end_when_the_gateway_shuts_down() -> Outcome {
    let rig = Rig::start(&["--drain-timeout", "30s"]).await;
    let token = rig.token("ann");
    let path = endless(&rig, &token).await;
    let events_path = format!("{path}/events");
    let id = path.rsplit('/').next().ok_or("an id")?.to_owned();

    let mut client = OrderServiceClient::connect(format!("http://{}", rig.address)).await?;
    let mut request = tonic::Request::new(WatchOrderRequest {
        order_id: id,
        customer_id: String::new(),
    });
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    let mut watch = client.watch_order(request).await?.into_inner();
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
async fn a_stream_keeps_its_place_until_it_ends() -> Outcome {
    let rig = Rig::start(&["--max-concurrent-requests", "1"]).await;
    let token = rig.token("ann");
    let path = endless(&rig, &token).await;
    let id = path.rsplit('/').next().ok_or("an id")?.to_owned();
    let authorised = |message| {
        let mut request = tonic::Request::new(message);
        let bearer = format!("Bearer {token}").parse().expect("ascii");
        request.metadata_mut().insert("authorization", bearer);
        request
    };
    let mut client = OrderServiceClient::connect(format!("http://{}", rig.address)).await?;
    let watch = WatchOrderRequest {
        order_id: id,
        customer_id: String::new(),
    };
    let mut stream = client.watch_order(authorised(watch)).await?.into_inner();
    stream.message().await?.ok_or("the order as it is")?;

    let refused = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED")
    );
    assert_eq!(refused.header("retry-after"), "1");
    let mut get = tonic::Request::new(GetOrderRequest::default());
    get.metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    let status = client.get_order(get).await.expect_err("no place");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);

    drop(stream);
    while rig.get("/v1/orders", &token).await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
    rig.stop().await;
    Ok(())
}

#[tokio::test]
async fn odd_requests_get_proper_answers() -> Outcome {
    let rig = Rig::start(&[]).await;
    let token = rig.token("ann");
    let garbled = rig.get("/v1/orders/%FF", &token).await;
    assert_eq!(
        (garbled.status, garbled.reason().as_str()),
        (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT")
    );
    let headers = [("content-type", "application/grpc")];
    let unknown = rig
        .send(Method::POST, "/no.Such/Method", &headers, "")
        .await;
    assert_eq!(unknown.header("grpc-status"), "12");
    let listed = rig.get("/v1/orders", &token).await;
    assert_eq!(
        (
            listed.header("cache-control"),
            listed.header("x-content-type-options")
        ),
        ("no-store", "nosniff")
    );
    // A subject that would not survive being written into a header or a log line.
    let mut claims = rig.claims("ann");
    claims["sub"] = json!("ann\r\nx: y");
    let refused = rig.get("/v1/orders", &rig.sign(&claims)).await;
    assert_eq!(refused.reason(), "TOKEN_MALFORMED");
    rig.stop().await;
    Ok(())
}
