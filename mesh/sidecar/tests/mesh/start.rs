//! What a sidecar does before the control plane has said anything of its app's ports.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_sidecar::testing::{ControlPlane, policies};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;

use crate::harness::{ORDERS, Pod, UNARY, eventually, metric};

/// A client's pod, and one of orders that has a certificate and no policy.
async fn start() -> (ControlPlane, Pod, Pod) {
    let control = ControlPlane::start().await.unwrap();
    let orders = Pod::start(&control, "orders").await;
    let gateway = Pod::start(&control, "gateway").await;
    control.set_policy(
        ORDERS,
        policies::grpc(vec![policies::grpc_rule("", ORDERS)], None),
    );
    control.set_endpoints(ORDERS, vec![orders.endpoint("orders")]);
    orders.sidecar.ready().await;
    gateway.sidecar.ready().await;
    (control, orders, gateway)
}

async fn is_ready(admin: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn first_requests_wait_for_the_first_policy() {
    let (control, orders, gateway) = start().await;
    assert!(!is_ready(orders.sidecar.admin_addr()).await);
    let mut serving = orders.sidecar.serving();
    let client = gateway.client(ORDERS);
    let call = tokio::spawn(async move { client.unary(UNARY, b"early").await });
    // It has come, and is held for the policy.
    eventually("the peer is connected", || {
        let name = "inbound_tcp_transport_header_connections_total";
        metric(&orders.sidecar, name, &[]) == 1.0
    })
    .await;
    assert!(!call.is_finished());
    let server = policies::grpc_server(Vec::new(), vec![policies::authz("all", &[])]);
    control.set_server("orders", orders.app.address.port(), server);
    assert_eq!(call.await.unwrap().unwrap().get_ref(), "early");
    serving.wait_for(|serving| *serving).await.unwrap();
    assert!(is_ready(orders.sidecar.admin_addr()).await);
}

#[tokio::test]
async fn without_an_answer_the_default_applies_after_a_while() {
    let (_control, orders, gateway) = start().await;
    let since = Instant::now();
    let status = gateway.client(ORDERS).unary(UNARY, b"").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(since.elapsed() >= Duration::from_secs(1));
    let mut serving = orders.sidecar.serving();
    serving.wait_for(|serving| *serving).await.unwrap();
    assert!(is_ready(orders.sidecar.admin_addr()).await);
    // Once the wait is over, it is over.
    let since = Instant::now();
    let status = gateway.client(ORDERS).unary(UNARY, b"").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(since.elapsed() < Duration::from_secs(1));
}
