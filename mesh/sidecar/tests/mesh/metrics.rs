//! What /metrics shows after all kinds of traffic: the names, types and label keys in `metrics.txt`, which are those of
//! Linkerd's proxy where it has such a family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use linkerd2_proxy_api::inbound::{HttpLocalRateLimit, http_local_rate_limit::Limit};
use linkerd2_proxy_api::outbound::grpc_route::Rule;
use mesh_sidecar::testing::{identity_of, policies};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Mesh, ORDERS, UNARY, eventually, metric};
use crate::peers::{Session, open_bytes, peer_called, refused};

const EXPECTED: &str = include_str!("metrics.txt");
const FLAKY: &str = "/test.Echo/Flaky";

async fn scrape(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// `name type key,key,...` for each different set of keys; a histogram is one name.
fn shown(text: &str) -> BTreeSet<String> {
    let mut kinds = BTreeMap::new();
    let mut all = BTreeSet::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            kinds.insert(name, kind);
        } else if let Some(sample) = line.rsplit_once(' ').map(|(sample, _)| sample) {
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| name.strip_suffix(part))
                .filter(|name| kinds.get(name) == Some(&"histogram"))
                .unwrap_or(name);
            let Some(kind) = kinds.get(family) else {
                continue;
            };
            let keys: BTreeSet<&str> = labels
                .split("\",")
                .filter_map(|label| Some(label.split_once("=\"")?.0))
                .filter(|key| *key != "le")
                .collect();
            let keys: Vec<_> = keys.into_iter().collect();
            all.insert(
                format!("{family} {kind} {}", keys.join(","))
                    .trim_end()
                    .to_owned(),
            );
        }
    }
    all
}

/// gRPC that works, is tried again, finds no route, fails at once, and is refused.
async fn grpc(mesh: &Mesh) {
    let client = mesh.client();
    client.unary(UNARY, b"x").await.unwrap();
    mesh.orders.app.state.failures.store(1, Ordering::Relaxed);
    client.unary(FLAKY, b"x").await.unwrap();
    let nobody = mesh.gateway.client("nobody:1");
    nobody.unary(UNARY, b"x").await.unwrap_err();
    let port = mesh.orders.app.address.port();
    let operator = policies::authz("operator", &[identity_of("operator")]);
    let all = policies::authz("all", &[]);
    let routes = vec![
        policies::server_route("open", "test.Echo", "Unary", vec![all]),
        policies::server_route("closed", "test.Echo", "Flaky", vec![operator]),
    ];
    let server = policies::grpc_server(routes, Vec::new());
    mesh.control.set_server("orders", port, server);
    while client.unary(FLAKY, b"x").await.is_ok() {}
    client.unary("/test.Echo/Other", b"x").await.unwrap_err();
    // An app that cannot be reached.
    let dead = policies::authz("all", &[]);
    mesh.control
        .set_server("orders", 1, policies::grpc_server(Vec::new(), vec![dead]));
    let mut endpoint = mesh.orders.endpoint("orders");
    endpoint.addr = Some(SocketAddr::new(mesh.orders.app.address.ip(), 1).into());
    mesh.control.set_endpoints("dead", vec![endpoint]);
    let rule = policies::grpc_rule("", "dead");
    mesh.control
        .set_policy("dead:1", policies::grpc(vec![rule], None));
    let dead = mesh.gateway.client("dead:1");
    dead.unary(UNARY, b"x").await.unwrap_err();
}

/// HTTP/1 that works, and is refused by a rate limit.
async fn http(mesh: &Mesh) {
    let limit = HttpLocalRateLimit {
        metadata: policies::meta("policy.linkerd.io", "HTTPLocalRateLimitPolicy", "limit", 0),
        total: Some(Limit {
            requests_per_second: 2,
        }),
        ..HttpLocalRateLimit::default()
    };
    let server = policies::http_server(Some(limit), vec![policies::authz("all", &[])]);
    let port = mesh.orders.app.address.port();
    mesh.control.set_server("orders", port, server);
    mesh.control.set_policy("rest:8080", policies::http(ORDERS));
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let limited = "inbound_http_local_ratelimit_total";
    while metric(&mesh.orders.sidecar, limited, &[]) == 0.0 {
        let request = Request::post(format!(
            "http://{}/v1",
            mesh.gateway.sidecar.outbound_addr()
        ))
        .header("host", "rest:8080")
        .body(Full::from("text"))
        .unwrap();
        client.request(request).await.unwrap();
    }
}

/// Connections of bytes: let in, ended, and refused.
async fn bytes(mesh: &Mesh) {
    let port = mesh.orders.app.address.port();
    let open = open_bytes(mesh).await;
    let nobody = policies::opaque_server(Vec::new());
    mesh.control.set_server("orders", port, nobody);
    eventually("it is ended", || {
        let name = "inbound_tcp_authz_terminate_total";
        metric(&mesh.orders.sidecar, name, &[]) == 1.0
    })
    .await;
    drop(open);
    let before = refused(mesh, "unauthorized");
    let refused_now = peer_called("gateway", mesh, port, Session::Bytes).await;
    eventually("it is refused", || refused(mesh, "unauthorized") > before).await;
    drop(refused_now);
}

#[tokio::test]
async fn families_have_linkerds_names_types_and_labels() {
    let rule = Rule {
        retry: policies::retry(2, None),
        ..policies::grpc_rule("", ORDERS)
    };
    let mesh = Mesh::start_with(vec![rule], None).await;
    grpc(&mesh).await;
    http(&mesh).await;
    bytes(&mesh).await;
    // Streams of the control plane are counted when they end.
    mesh.control.stop();
    eventually("their ends are counted", || {
        let labels = &["grpc_status=\"14\""];
        metric(&mesh.gateway.sidecar, "control_response_total", labels) > 0.0
    })
    .await;
    let mut found = BTreeSet::new();
    for pod in [&mesh.gateway, &mesh.orders] {
        found.extend(shown(&scrape(pod.sidecar.admin_addr()).await));
    }
    let lines = EXPECTED.lines().map(str::trim_end);
    let expected: BTreeSet<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let unexpected: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && unexpected.is_empty(),
        "not shown: {missing:#?}\nnot in metrics.txt: {unexpected:#?}"
    );
}

/// The value of one series, which all of `labels` name.
fn value(pod: &crate::harness::Pod, name: &str, labels: &[&str]) -> f64 {
    metric(&pod.sidecar, name, labels)
}

#[tokio::test]
async fn a_call_is_counted_where_it_goes_by() {
    let mesh = Mesh::start().await;
    // 5 bytes before the message of 200, which are echoed.
    mesh.client().unary(UNARY, &[0; 200]).await.unwrap();
    let (out, inside) = (&mesh.gateway, &mesh.orders);
    let route = &["route_name=\"route\"", "hostname=\"\""];
    let backend = &["parent_port=\"50051\"", "backend_port=\"\""];
    for (pod, name, labels, expected) in [
        (
            out,
            "outbound_grpc_route_request_frame_size_bytes_sum",
            &route[..],
            205.0,
        ),
        (
            out,
            "outbound_grpc_route_backend_response_frame_size_bytes_sum",
            &[],
            205.0,
        ),
        (
            out,
            "outbound_grpc_route_request_statuses_total",
            &["grpc_status=\"OK\"", "error=\"\""],
            1.0,
        ),
        (
            out,
            "outbound_http_balancer_queue_requests_total",
            backend,
            1.0,
        ),
        (
            out,
            "outbound_http_balancer_queue_latency_seconds_count",
            backend,
            1.0,
        ),
        (out, "outbound_http_balancer_queue_length", backend, 0.0),
        (out, "outbound_http_balancer_p2c_endpoints", backend, 1.0),
        (
            out,
            "outbound_http_balancer_queue_gate_timeout_seconds",
            backend,
            3.0,
        ),
        (
            inside,
            "inbound_grpc_requests_total",
            &["parent_kind=\"server\""],
            1.0,
        ),
        (
            inside,
            "inbound_grpc_statuses_total",
            &["status=\"0\""],
            1.0,
        ),
        (
            inside,
            "inbound_grpc_request_duration_seconds_count",
            &[],
            1.0,
        ),
        (
            inside,
            "inbound_grpc_request_frame_size_bytes_sum",
            &[],
            205.0,
        ),
        (
            inside,
            "inbound_grpc_response_frame_size_bytes_sum",
            &[],
            205.0,
        ),
    ] {
        assert_eq!(value(pod, name, labels), expected, "{name} {labels:?}");
    }
}

#[tokio::test]
async fn errors_are_counted_by_what_failed() {
    let mesh = Mesh::start().await;
    let failfast = &["error=\"failfast\""];
    let errors = "outbound_http_errors_total";
    mesh.control.set_endpoints(
        ORDERS,
        vec![policies::endpoint(crate::harness::nowhere(), 1, "orders")],
    );
    while mesh.client().unary(UNARY, b"").await.is_ok() {}
    assert_eq!(value(&mesh.gateway, errors, failfast), 1.0);
    let shut = "outbound_http_balancer_queue_gate_shut_total";
    assert_eq!(value(&mesh.gateway, shut, &[]), 1.0);
    // Denied is what a policy wants, and no error.
    let port = mesh.orders.app.address.port();
    let nobody = policies::grpc_server(Vec::new(), Vec::new());
    mesh.control.set_server("orders", port, nobody);
    mesh.control
        .set_endpoints(ORDERS, vec![mesh.orders.endpoint("orders")]);
    let denied = "inbound_http_authz_deny_total";
    while value(&mesh.orders, denied, &[]) == 0.0 {
        let _ = mesh.client().unary(UNARY, b"").await;
    }
    assert_eq!(value(&mesh.orders, "inbound_http_errors_total", &[]), 0.0);
    assert_eq!(
        value(
            &mesh.gateway,
            "outbound_http_balancer_queue_gate_open_total",
            &[]
        ),
        2.0
    );
}
