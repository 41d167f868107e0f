//! Consul's API, by plain HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use sagamesh_api::mesh::v1::check::Kind;
use sagamesh_api::mesh::v1::{Check, CheckResult, Health, RenewRequest, TtlCheck};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::rig::{Rig, by};

type Answer = (StatusCode, HeaderMap, String);

async fn send(to: SocketAddr, method: &str, path: &str, body: String) -> Answer {
    let stream = TcpStream::connect(to).await.expect("connected");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP");
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "consul")
        .body(Full::new(hyper::body::Bytes::from(body)))
        .expect("a request");
    let (head, body) = sender
        .send_request(request)
        .await
        .expect("an answer")
        .into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    connection.abort();
    let text = String::from_utf8(body.to_vec()).expect("text");
    (head.status, head.headers, text)
}

async fn put(rig: &Rig, path: &str, body: Value) -> (StatusCode, String) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (status, _, text) = send(rig.consul(), "PUT", path, body).await;
    (status, text)
}

async fn get(rig: &Rig, path: &str) -> (Value, String) {
    let (status, headers, text) = send(rig.consul(), "GET", path, String::new()).await;
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    let index = headers
        .get("x-consul-index")
        .map_or("", |index| index.to_str().expect("a number"));
    (serde_json::from_str(&text).expect("JSON"), index.to_owned())
}

fn web(id: &str) -> Value {
    json!({
        "ID": id,
        "Name": "web",
        "Tags": ["v1", "primary"],
        "Address": "127.0.0.1",
        "Port": 8000,
        "Meta": {"Owner": "Shop"},
        "Check": {"TTL": "60s", "Status": "critical", "DeregisterCriticalServiceAfter": "90m"},
        "Weights": {"Passing": 10, "Warning": 1},
        "EnableTagOverride": false,
    })
}

#[tokio::test]
async fn a_service_is_registered_reported_found_and_removed() {
    let mut rig = Rig::started().await;
    let (status, text) = put(
        &rig,
        "/v1/agent/service/register?replace-existing-checks=true",
        web("web-1"),
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let (found, index) = get(&rig, "/v1/health/service/web?passing=1").await;
    assert_eq!(found, json!([]), "its check has not passed yet");

    // A query that waits is answered by the report, not by its own end.
    let path = format!("/v1/health/service/web?passing=true&index={index}&wait=10m");
    let (waited, reported) = tokio::join!(get(&rig, &path), async {
        put(
            &rig,
            "/v1/agent/check/pass/service:web-1?note=well",
            Value::Null,
        )
        .await
    });
    assert_eq!(reported.0, StatusCode::OK, "{}", reported.1);
    let (found, newer) = waited;
    assert_ne!(index, newer);
    assert_eq!(found[0]["Service"]["ID"], "web-1");
    assert_eq!(found[0]["Service"]["Port"], 8000);
    assert_eq!(found[0]["Service"]["Meta"]["Owner"], "Shop");
    assert_eq!(found[0]["Node"]["Address"], "127.0.0.1");
    assert_eq!(found[0]["Checks"][1]["CheckID"], "service:web-1");
    assert_eq!(found[0]["Checks"][1]["Output"], "well");

    let (services, _) = get(&rig, "/v1/catalog/services").await;
    assert_eq!(services, json!({"web": ["primary", "v1"]}));
    let (catalog, _) = get(&rig, "/v1/catalog/service/web?tag=v1").await;
    assert_eq!(catalog[0]["ServiceAddress"], "127.0.0.1");
    let (catalog, _) = get(&rig, "/v1/catalog/service/web?tag=v2").await;
    assert_eq!(catalog, json!([]));
    let (own, _) = get(&rig, "/v1/agent/services").await;
    assert_eq!(own["web-1"]["Service"], "web");
    assert_eq!(
        get(&rig, "/v1/agent/self").await.0["Config"]["NodeName"],
        "meshd"
    );
    assert!(get(&rig, "/v1/status/leader").await.0.is_string());

    for (path, body, state) in [
        ("/v1/agent/check/warn/service:web-1", Value::Null, "warning"),
        (
            "/v1/agent/check/fail/service:web-1",
            Value::Null,
            "critical",
        ),
        (
            "/v1/agent/check/update/service:web-1",
            json!({"Status": "passing", "Output": "up"}),
            "passing",
        ),
    ] {
        assert_eq!(put(&rig, path, body).await.0, StatusCode::OK, "{path}");
        let (checks, _) = get(&rig, "/v1/agent/checks").await;
        assert_eq!(checks["service:web-1"]["Status"], state);
    }
    let path = "/v1/agent/service/deregister/web-1";
    assert_eq!(put(&rig, path, Value::Null).await.0, StatusCode::OK);
    assert_eq!(put(&rig, path, Value::Null).await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&rig, "/v1/health/service/web").await.0, json!([]));
    rig.drain().await;
}

#[tokio::test]
async fn pods_of_the_mesh_are_shown_and_not_touched() {
    let mut rig = Rig::started().await;
    let mut pod = crate::registrations::instance("orders", "orders-0", "127.77.0.2");
    pod.instance.as_mut().expect("an instance").checks = vec![Check {
        check_id: "alive".to_owned(),
        kind: Some(Kind::Ttl(TtlCheck {
            ttl: Some(chassis::timestamp::from_duration(Duration::from_secs(60))),
        })),
        ..Check::default()
    }];
    rig.registry()
        .register(by("orders-0", pod))
        .await
        .expect("registered");
    let report = RenewRequest {
        instance_id: "orders-0".to_owned(),
        reports: vec![CheckResult {
            check_id: "alive".to_owned(),
            health: Health::Passing.into(),
            ..CheckResult::default()
        }],
        ..RenewRequest::default()
    };
    rig.registry()
        .renew(by("orders-0", report))
        .await
        .expect("renewed");
    let (found, _) = get(&rig, "/v1/health/service/orders?passing").await;
    assert_eq!(found[0]["Service"]["Address"], "127.77.0.2");
    let path = "/v1/agent/service/deregister/orders-0";
    assert_eq!(put(&rig, path, Value::Null).await.0, StatusCode::FORBIDDEN);
    let path = "/v1/agent/service/register";
    let (status, _) = put(&rig, path, web("orders-0")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    for (path, body) in [
        ("/v1/agent/check/pass/alive", Value::Null),
        ("/v1/agent/check/warn/alive", Value::Null),
        ("/v1/agent/check/fail/alive", Value::Null),
        (
            "/v1/agent/check/update/alive",
            json!({"Status": "critical"}),
        ),
    ] {
        let (status, text) = put(&rig, path, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        assert!(text.contains("orders-0"), "{text}");
    }
    let (found, _) = get(&rig, "/v1/health/service/orders?passing").await;
    assert_eq!(found[0]["Service"]["ID"], "orders-0", "as well as before");
    rig.drain().await;
}

#[tokio::test]
async fn a_query_that_waits_does_not_hold_up_the_end() {
    let mut rig = Rig::started().await;
    let consul = rig.consul();
    let (_, index) = get(&rig, "/v1/health/service/web").await;
    let waiting = tokio::spawn(async move {
        let path = format!("/v1/health/service/web?index={index}&wait=10m");
        send(consul, "GET", &path, String::new()).await
    });
    rig.drain().await;
    // Answered, or cut off: ended either way.
    let _ = waiting.await;
}

#[tokio::test]
async fn what_is_not_understood_is_refused_with_a_sentence() {
    let mut rig = Rig::started().await;
    let with = |field: &str, value: Value| {
        let mut body = web("web-1");
        body[field] = value;
        body
    };
    for (body, said) in [
        ("{".to_owned(), "Request decode failed"),
        (String::new(), "Request decode failed"),
        (json!({"ID": "x"}).to_string(), "Missing service name"),
        (
            with("Port", json!("many")).to_string(),
            "Request decode failed",
        ),
        (
            with("Port", json!(0)).to_string(),
            "port: must be from 1 to 65535",
        ),
        (
            with("Kind", json!("connect-proxy")).to_string(),
            "not supported",
        ),
        (
            with("Check", json!({"Args": ["/bin/true"], "Interval": "1s"})).to_string(),
            "Args is not supported",
        ),
        (
            with("Check", json!({"HTTP": "http://x/"})).to_string(),
            "Interval must be > 0",
        ),
        (
            with(
                "Check",
                json!({"HTTP": "http://x/", "TTL": "1s", "Interval": "1s"}),
            )
            .to_string(),
            "exactly one",
        ),
        (
            with("Check", json!({"TTL": "soon"})).to_string(),
            "`soon` is not a duration",
        ),
        (
            with("Check", json!({"HTTP": "https://x/", "Interval": "1s"})).to_string(),
            "http://",
        ),
    ] {
        let path = "/v1/agent/service/register";
        let (status, _, text) = send(rig.consul(), "PUT", path, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {text}");
        assert!(text.contains(said), "{body}: {text}");
    }
    let large = format!("{{\"Name\":\"{}\"}}", "x".repeat(100_000));
    for (method, path, body, status) in [
        (
            "PUT",
            "/v1/agent/service/register",
            large.as_str(),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (
            "PUT",
            "/v1/agent/check/pass/nothing",
            "",
            StatusCode::NOT_FOUND,
        ),
        (
            "PUT",
            "/v1/agent/check/update/x",
            "{\"Status\":\"fine\"}",
            StatusCode::BAD_REQUEST,
        ),
        (
            "GET",
            "/v1/health/service/web?index=many",
            "",
            StatusCode::BAD_REQUEST,
        ),
        (
            "GET",
            "/v1/health/service/web?wait=soon",
            "",
            StatusCode::BAD_REQUEST,
        ),
        (
            "GET",
            "/v1/health/service/web?filter=x",
            "",
            StatusCode::BAD_REQUEST,
        ),
        ("GET", "/v1/kv/some/key", "", StatusCode::NOT_FOUND),
        (
            "POST",
            "/v1/agent/service/register",
            "{}",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        let (got, _, text) = send(rig.consul(), method, path, body.to_owned()).await;
        assert_eq!(got, status, "{method} {path}: {text}");
        assert!(!text.is_empty(), "{method} {path}");
    }
    rig.drain().await;
}
