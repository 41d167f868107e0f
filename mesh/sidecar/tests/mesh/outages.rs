//! What happens when something goes away: the control plane, the app, a sidecar.

use std::time::Duration;

use mesh_sidecar::testing::policies;
use tonic::Code;

use crate::app::App;
use crate::harness::{Mesh, ORDERS, Pod, UNARY, eventually, metric};
use crate::proxy::{is_linkerd, skipped};

#[tokio::test]
async fn without_the_control_plane_everything_known_goes_on() {
    const KEPT: Duration = Duration::from_millis(500);
    let mesh = Mesh::with_gateway(|config| config.outbound.discovery_idle = KEPT).await;
    let client = mesh.client();
    client.unary(UNARY, b"").await.unwrap();
    mesh.control.stop();
    eventually("it is noticed", || {
        metric(&mesh.gateway.sidecar, "control_response_total", &[]) >= 1.0
    })
    .await;
    for _ in 0..100 {
        client.unary(UNARY, b"").await.unwrap();
    }
    // A new connection too, longer after the last request than destinations are kept.
    tokio::time::sleep(3 * KEPT).await;
    mesh.client().unary(UNARY, b"").await.unwrap();

    mesh.control.set_policy(
        ORDERS,
        policies::grpc(vec![policies::grpc_rule("test.Other", ORDERS)], None),
    );
    mesh.control.restart().await.unwrap();
    loop {
        match client.unary(UNARY, b"").await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(status) => {
                return assert_eq!(
                    status.code(),
                    Code::NotFound,
                    "what changed meanwhile is learned"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_app_that_is_away_fails_fast_and_is_found_again() {
    let mesh = Mesh::start().await;
    let Mesh {
        orders: Pod { app, sidecar, .. },
        gateway,
        ..
    } = mesh;
    let client = gateway.client(ORDERS);
    client.unary(UNARY, b"").await.unwrap();
    let address = app.address;
    drop(app);
    let status = loop {
        if let Err(status) = client.unary(UNARY, b"").await {
            break status;
        }
    };
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable),
        "{status}"
    );
    let app = App::start_on(address).await;
    loop {
        if client.unary(UNARY, b"").await.is_ok() {
            break;
        }
    }
    assert!(app.calls() >= 1);
    drop(sidecar);
}

#[tokio::test]
async fn a_sidecar_that_drains_finishes_what_is_under_way_and_fails_nothing() {
    if is_linkerd("gateway") {
        return skipped("it fails requests that meet a connection which is closing");
    }
    let mesh = Mesh::start().await;
    let other = Pod::start(&mesh.control, "orders").await;
    let port = other.app.address.port();
    mesh.control.set_server(
        "orders",
        port,
        policies::grpc_server(vec![], vec![policies::authz("all", &[])]),
    );
    other.sidecar.ready().await;
    let client = mesh.client();
    // A call that is under way in the one that goes away.
    let slow = {
        let client = client.clone();
        tokio::spawn(async move { client.unary("/test.Echo/Slow", b"").await })
    };
    mesh.orders.app.state.slow.notified().await;
    mesh.control.set_endpoints(
        ORDERS,
        vec![mesh.orders.endpoint("orders"), other.endpoint("orders")],
    );
    // Calls without a pause, all along.
    let load: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    client.unary(UNARY, b"x").await.unwrap();
                }
            })
        })
        .collect();
    other.app.called(1).await;
    let Pod { app, sidecar, .. } = mesh.orders;
    let shutdown = tokio::spawn(sidecar.shutdown());
    for calls in load {
        calls.await.unwrap();
    }
    assert!(!shutdown.is_finished(), "it waits for the slow call");
    app.state.release.notify_waiters();
    // No message, but its status: OK.
    assert_eq!(slow.await.unwrap().unwrap_err().code(), Code::Internal);
    shutdown.await.unwrap();
}

#[tokio::test]
async fn the_drain_has_a_deadline() {
    let control = mesh_sidecar::testing::ControlPlane::start().await.unwrap();
    let pod = Pod::start_with(&control, "orders", |config| {
        config.shutdown_grace = Duration::from_millis(200)
    })
    .await;
    let gateway = Pod::start(&control, "gateway").await;
    control.set_policy(
        ORDERS,
        policies::grpc(vec![policies::grpc_rule("", ORDERS)], None),
    );
    control.set_endpoints(ORDERS, vec![pod.endpoint("orders")]);
    let port = pod.app.address.port();
    control.set_server(
        "orders",
        port,
        policies::grpc_server(vec![], vec![policies::authz("all", &[])]),
    );
    pod.sidecar.ready().await;
    gateway.sidecar.ready().await;
    let client = gateway.client(ORDERS);
    let slow = tokio::spawn(async move { client.unary("/test.Echo/Slow", b"").await });
    pod.app.state.slow.notified().await;
    pod.sidecar.shutdown().await;
    assert_eq!(slow.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(
        metric(
            &gateway.sidecar,
            "response_total",
            &["classification=\"failure\""]
        ) >= 1.0
    );
}
