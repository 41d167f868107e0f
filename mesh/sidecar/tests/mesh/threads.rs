//! A sidecar with more than one thread: each connection stays on one of them, and what a policy says holds for all.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use linkerd2_proxy_api::inbound::{HttpLocalRateLimit, http_local_rate_limit::Limit};
use linkerd2_proxy_api::outbound::FailureAccrual;
use mesh_sidecar::testing::{ControlPlane, policies};
use tonic::Code;

use crate::harness::{Mesh, ORDERS, Pod, UNARY, metric};
use crate::proxy::{is_linkerd, skipped};

const FLAKY: &str = "/test.Echo/Flaky";

/// A mesh whose sidecars have two threads each.
async fn start(accrual: Option<FailureAccrual>, limit: Option<HttpLocalRateLimit>) -> Mesh {
    let control = ControlPlane::start().await.unwrap();
    let orders = Pod::start_with(&control, "orders", |config| config.cores = 2).await;
    let gateway = Pod::start_with(&control, "gateway", |config| config.cores = 2).await;
    let rules = vec![policies::grpc_rule("", ORDERS)];
    control.set_policy(ORDERS, policies::grpc(rules, accrual));
    control.set_endpoints(ORDERS, vec![orders.endpoint("orders")]);
    let server = policies::http_server(limit, vec![policies::authz("all", &[])]);
    control.set_server("orders", orders.app.address.port(), server);
    orders.sidecar.ready().await;
    gateway.sidecar.ready().await;
    Mesh {
        control,
        gateway,
        orders,
    }
}

#[tokio::test]
async fn connections_are_shared_out_among_threads() {
    if is_linkerd("gateway") {
        return skipped("its threads share connections");
    }
    let mesh = start(None, None).await;
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let client = mesh.client();
            tokio::spawn(async move {
                for _ in 0..50 {
                    client.unary(UNARY, b"x").await.unwrap();
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(mesh.orders.app.calls(), 200);
    // Four connections of the app's went to two threads, each of which has one to the peer.
    let open = |peer| metric(&mesh.gateway.sidecar, "tcp_open_total", &[peer]);
    assert_eq!((open("peer=\"src\""), open("peer=\"dst\"")), (4.0, 2.0));
}

#[tokio::test]
async fn a_rate_limit_is_for_all_threads_together() {
    const RATE: u32 = 50;
    let total = Some(Limit {
        requests_per_second: RATE,
    });
    let limit = HttpLocalRateLimit {
        total,
        ..HttpLocalRateLimit::default()
    };
    let mesh = start(None, Some(limit)).await;
    let since = Instant::now();
    let clients = [mesh.client(), mesh.client()];
    let calls: Vec<_> = (0..400)
        .map(|i| {
            let client = clients[i % 2].clone();
            tokio::spawn(async move { client.unary(UNARY, b"x").await })
        })
        .collect();
    let mut admitted = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    }
    // A second's worth at once, then what the time allowed: one more for the one that was under way.
    let most = f64::from(RATE) * (1.0 + since.elapsed().as_secs_f64()) + 1.0;
    assert!(f64::from(admitted) <= most, "{admitted}");
    assert!(admitted >= 50, "{admitted}");
}

#[tokio::test]
async fn a_breaker_is_for_all_threads_together() {
    let mesh = start(policies::accrual(3, Duration::from_secs(60)), None).await;
    let (first, second) = (mesh.client(), mesh.client());
    // Both threads have a connection to the endpoint.
    first.unary(UNARY, b"x").await.unwrap();
    second.unary(UNARY, b"x").await.unwrap();
    mesh.orders
        .app
        .state
        .failures
        .store(usize::MAX, Ordering::Relaxed);
    let before = mesh.orders.app.calls();
    for _ in 0..3 {
        let status = first.unary(FLAKY, b"x").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
    }
    // Out for a minute: the other thread waits for it in vain.
    let status = second.unary(FLAKY, b"x").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(mesh.orders.app.calls(), before + 3);
}
