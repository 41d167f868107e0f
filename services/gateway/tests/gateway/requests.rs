//! Requests that are wrong or odd, and what browsers ask.

use http::{Method, StatusCode};
use serde_json::json;

use crate::Outcome;
use crate::rig::{Rig, new_order};

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
    assert_eq!(
        listed.header("content-length"),
        listed.body.len().to_string(),
        "the length of an answer is known"
    );
    // A subject that would not survive being written into a header or a log line.
    let mut claims = rig.claims("ann");
    claims["sub"] = json!("ann\r\nx: y");
    let refused = rig.get("/v1/orders", &rig.sign(&claims)).await;
    assert_eq!(refused.reason(), "TOKEN_MALFORMED");
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
    // What is described is what is read.
    let described: Vec<_> = document["paths"]["/v1/items"]["get"]["parameters"]
        .as_array()
        .ok_or("parameters")?
        .iter()
        .map(|parameter| parameter["name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(described, ["page_size", "page_token"]);
    for unread in ["status=PENDING", "min_position=1"] {
        let refused = rig.get(&format!("/v1/items?{unread}"), &token).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    }
    // And the other way round: every route of the source is described.
    for line in include_str!("../../src/rest/mod.rs").lines() {
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
