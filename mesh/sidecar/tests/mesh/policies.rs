//! What policies make of a call: routes, timeouts, retries, breakers, authorization, rate limits.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use linkerd2_proxy_api::inbound::{self, HttpLocalRateLimit, http_local_rate_limit::Limit};
use linkerd2_proxy_api::outbound::grpc_route::Rule;
use mesh_sidecar::testing::{identity_of, policies};
use tonic::Code;

use crate::harness::{Mesh, ORDERS, Pod, UNARY, metric};
use crate::proxy::{is_linkerd, skipped};

const FLAKY: &str = "/test.Echo/Flaky";

fn rule() -> Rule {
    policies::grpc_rule("", ORDERS)
}

#[tokio::test]
async fn a_failed_call_is_tried_again_with_its_body() {
    let rule = Rule {
        retry: policies::retry(2, None),
        ..rule()
    };
    let mesh = Mesh::start_with(vec![rule], None).await;
    mesh.orders.app.state.failures.store(2, Ordering::Relaxed);
    let response = mesh.client().unary(FLAKY, b"again").await.unwrap();
    assert_eq!(response.get_ref(), "again");
    assert_eq!(mesh.orders.app.calls(), 3);
    assert_eq!(
        metric(
            &mesh.gateway.sidecar,
            "outbound_grpc_route_retry_requests_total",
            &[]
        ),
        2.0
    );
    assert_eq!(
        metric(
            &mesh.gateway.sidecar,
            "outbound_grpc_route_retry_successes_total",
            &[]
        ),
        1.0
    );

    mesh.orders.app.state.failures.store(3, Ordering::Relaxed);
    assert_eq!(
        mesh.client().unary(FLAKY, b"").await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(mesh.orders.app.calls(), 6);
    assert_eq!(
        metric(
            &mesh.gateway.sidecar,
            "outbound_grpc_route_retry_limit_exceeded_total",
            &[]
        ),
        1.0
    );
}

#[tokio::test]
async fn a_body_above_the_limit_is_sent_once() {
    let rule = Rule {
        retry: policies::retry(2, None),
        ..rule()
    };
    let mesh = Mesh::start_with(vec![rule], None).await;
    mesh.orders.app.state.failures.store(1, Ordering::Relaxed);
    let status = mesh
        .client()
        .unary(FLAKY, &vec![0; 100_000])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(mesh.orders.app.calls(), 1);
}

#[tokio::test]
async fn a_slow_try_is_given_up_for_the_next() {
    let rule = Rule {
        retry: policies::retry(1, Some(Duration::from_millis(500))),
        ..rule()
    };
    let mesh = Mesh::start_with(vec![rule], None).await;
    let client = mesh.client();
    // Not the time to connect is what a try takes too long for.
    client.unary(UNARY, b"").await.unwrap();
    let call = tokio::spawn(async move { client.unary("/test.Echo/Slow", b"").await });
    mesh.orders.app.state.slow.notified().await;
    // The last try has no limit of its own: it is this one that is released.
    mesh.orders.app.called(3).await;
    mesh.orders.app.state.slow.notified().await;
    mesh.orders.app.state.release.notify_waiters();
    let call = call.await.unwrap();
    // No message, but its status: OK.
    assert_eq!(call.unwrap_err().code(), Code::Internal);
    assert_eq!(mesh.orders.app.calls(), 3);
}

#[tokio::test]
async fn a_stream_on_a_route_with_retries_is_not_held_back() {
    if is_linkerd("gateway") {
        return skipped("it waits for a first message where it may have to try again");
    }
    let rule = Rule {
        retry: policies::retry(2, None),
        ..rule()
    };
    let mesh = Mesh::start_with(vec![rule], None).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    // The response's headers come before the first message of either side.
    let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = mesh
        .client()
        .stream("/test.Echo/Stream", messages)
        .await
        .unwrap()
        .into_inner();
    sender.send(Bytes::from_static(b"now")).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap(), "now");
}

#[tokio::test]
async fn timeouts_are_deadline_exceeded_and_say_which() {
    let ms = |ms| Some(Duration::from_millis(ms));
    for (timeouts, text) in [
        (policies::timeouts(ms(500), None, None), "request timed out"),
        (
            policies::timeouts(None, ms(500), None),
            "response timed out",
        ),
        (policies::timeouts(None, None, ms(500)), "stream idle"),
    ] {
        if is_linkerd("gateway") && text == "stream idle" {
            return skipped("a stream without a first frame is not idle to it");
        }
        let mesh = Mesh::start_with(vec![Rule { timeouts, ..rule() }], None).await;
        let status = mesh
            .client()
            .unary("/test.Echo/Slow", b"")
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        if is_linkerd("gateway") {
            skipped("its words differ, and a response that has begun it ends in other ways");
            continue;
        }
        assert!(status.message().contains(text), "{status}");
        // Also once the response has begun.
        let mut answers = mesh
            .client()
            .stream("/test.Echo/Endless", tokio_stream::empty())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap(), "x");
        let status = answers.message().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
}

#[tokio::test]
async fn a_request_may_say_its_own_timeout_where_the_route_allows_it() {
    let mesh = Mesh::start_with(
        vec![Rule {
            allow_l5d_request_headers: true,
            ..rule()
        }],
        None,
    )
    .await;
    let mut request = tonic::Request::new(Bytes::new());
    request
        .metadata_mut()
        .insert("l5d-timeout", "50ms".parse().unwrap());
    let status = mesh
        .client()
        .send("/test.Echo/Slow", request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);

    let mut request = tonic::Request::new(Bytes::from_static(b"x"));
    request
        .metadata_mut()
        .insert("l5d-retry-grpc", "unavailable".parse().unwrap());
    request
        .metadata_mut()
        .insert("l5d-retry-limit", "3".parse().unwrap());
    mesh.orders.app.state.failures.store(3, Ordering::Relaxed);
    assert_eq!(
        mesh.client().send(FLAKY, request).await.unwrap().get_ref(),
        "x"
    );
}

#[tokio::test]
async fn a_request_that_no_route_matches_is_not_found() {
    let mesh = Mesh::start_with(vec![policies::grpc_rule("test.Other", ORDERS)], None).await;
    assert_eq!(
        mesh.client().unary(UNARY, b"").await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_new_policy_binds_new_requests_on_the_same_connection() {
    let mesh = Mesh::start().await;
    mesh.client().unary(UNARY, b"").await.unwrap();
    mesh.control.set_policy(
        ORDERS,
        policies::grpc(vec![policies::grpc_rule("test.Other", ORDERS)], None),
    );
    let client = mesh.client();
    for _ in 0..1000 {
        if let Err(status) = client.unary(UNARY, b"").await {
            assert_eq!(status.code(), Code::NotFound);
            return;
        }
    }
    panic!("the new policy never came");
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_taken_out() {
    let ms = Duration::from_millis;
    let slow = [
        Rule {
            timeouts: policies::timeouts(Some(ms(100)), None, None),
            ..rule()
        },
        // The last try has no timeout of its own: two of each call end by one, and all of it by the other.
        Rule {
            timeouts: policies::timeouts(Some(ms(300)), None, None),
            retry: policies::retry(2, Some(ms(50))),
            ..rule()
        },
    ];
    for rule in slow {
        let mesh =
            Mesh::start_with(vec![rule], policies::accrual(3, Duration::from_secs(60))).await;
        let client = mesh.client();
        let out = || {
            let name = "outbound_http_balancer_endpoints";
            let labels = ["endpoint_state=\"pending\""];
            metric(&mesh.gateway.sidecar, name, &labels) >= 1.0
        };
        // The balancer notices at the next request.
        for _ in 0..20 {
            client.unary("/test.Echo/Slow", b"").await.unwrap_err();
        }
        assert!(out(), "still in use");
    }
}

#[tokio::test]
async fn a_failing_endpoint_is_taken_out_and_probed() {
    let retry = Rule {
        retry: policies::retry(5, None),
        ..rule()
    };
    let mesh = Mesh::start_with(vec![retry], policies::accrual(3, Duration::from_secs(60))).await;
    let bad = Pod::start(&mesh.control, "orders").await;
    let port = bad.app.address.port();
    mesh.control.set_server(
        "orders",
        port,
        policies::grpc_server(vec![], vec![policies::authz("all", &[])]),
    );
    bad.sidecar.ready().await;
    bad.app.state.failures.store(usize::MAX, Ordering::Relaxed);
    mesh.control.set_endpoints(
        ORDERS,
        vec![mesh.orders.endpoint("orders"), bad.endpoint("orders")],
    );
    let client = mesh.client();
    let endpoints = |state: &str| {
        let name = "outbound_http_balancer_endpoints";
        metric(&mesh.gateway.sidecar, name, &[state])
    };
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    while endpoints("endpoint_state=\"ready\"") < 2.0 {
        assert!(tokio::time::Instant::now() < limit, "never both ready");
        client.unary(UNARY, b"").await.unwrap();
    }
    // Many at once, so that the balancer takes both: until the bad one has failed three times in a row.
    while endpoints("endpoint_state=\"pending\"") < 1.0 {
        assert!(tokio::time::Instant::now() < limit, "never taken out");
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.unary(FLAKY, b"x").await.map(|_| ()) })
            })
            .collect();
        for call in calls {
            // The retries of a call may all meet the bad endpoint before it is out.
            let _ = call.await.unwrap();
        }
    }
    let calls = bad.app.calls();
    for _ in 0..50 {
        client.unary(FLAKY, b"x").await.unwrap();
    }
    assert_eq!(bad.app.calls(), calls, "it is out for a minute");
}

#[tokio::test]
async fn with_every_endpoint_out_requests_wait_for_the_probe() {
    let mesh = Mesh::start_with(
        vec![rule()],
        policies::accrual(1, Duration::from_millis(100)),
    )
    .await;
    mesh.orders.app.state.failures.store(1, Ordering::Relaxed);
    assert_eq!(
        mesh.client().unary(FLAKY, b"").await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(
        mesh.client().unary(FLAKY, b"x").await.unwrap().get_ref(),
        "x"
    );
    assert_eq!(mesh.orders.app.calls(), 2);
}

#[tokio::test]
async fn without_endpoints_requests_fail_fast() {
    let mesh = Mesh::start().await;
    mesh.client().unary(UNARY, b"").await.unwrap();
    mesh.control.set_endpoints(
        ORDERS,
        vec![policies::endpoint(crate::harness::nowhere(), 1, "orders")],
    );
    let client = mesh.client();
    for _ in 0..10_000 {
        if let Err(status) = client.unary(UNARY, b"").await {
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert!(status.message().contains("fail-fast"), "{status}");
            return;
        }
    }
    panic!("the endpoint never went");
}

#[tokio::test]
async fn authorization_is_per_route() {
    let mesh = Mesh::start().await;
    let port = mesh.orders.app.address.port();
    let gateway = policies::authz("gateway", &[identity_of("gateway")]);
    let operator = policies::authz("operator", &[identity_of("operator")]);
    let routes = vec![
        policies::server_route("open", "test.Echo", "Unary", vec![gateway]),
        policies::server_route("closed", "test.Echo", "Flaky", vec![operator]),
    ];
    mesh.control
        .set_server("orders", port, policies::grpc_server(routes, vec![]));
    let client = mesh.client();
    let mut denied = None;
    for _ in 0..1000 {
        if let Err(status) = client.unary(FLAKY, b"").await {
            denied = Some(status);
            break;
        }
    }
    let denied = denied.expect("the new policy never came");
    assert_eq!(denied.code(), Code::PermissionDenied);
    // Linkerd's proxy says first who asked whom.
    let message = denied.message();
    assert!(
        message.ends_with("unauthorized request on route"),
        "{message}"
    );
    client.unary(UNARY, b"").await.unwrap();
    assert_eq!(
        client
            .unary("/test.Echo/Other", b"")
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    assert_eq!(
        metric(
            &mesh.orders.sidecar,
            "inbound_http_authz_deny_total",
            &["route_name=\"closed\""]
        ),
        1.0
    );
    let allowed = &["route_name=\"open\"", "authz_name=\"gateway\""];
    assert_eq!(
        metric(
            &mesh.orders.sidecar,
            "inbound_http_authz_allow_total",
            allowed
        ),
        1.0
    );
}

#[tokio::test]
async fn until_the_policy_is_known_the_default_applies() {
    let mesh = Mesh::start().await;
    // No policy was ever set for this app's port: deny.
    let other = Pod::start(&mesh.control, "payments").await;
    other.sidecar.ready().await;
    mesh.control
        .set_endpoints(ORDERS, vec![other.endpoint("payments")]);
    let client = mesh.client();
    loop {
        match client.unary(UNARY, b"").await {
            Ok(_) => {}
            // With Linkerd's proxy such a port has no routes.
            Err(status) if is_linkerd("payments") => {
                return assert_eq!(status.code(), Code::NotFound);
            }
            Err(status) => return assert_eq!(status.code(), Code::PermissionDenied),
        }
    }
}

#[tokio::test]
async fn the_rate_limit_refuses_with_resource_exhausted() {
    let mesh = Mesh::start().await;
    let limit = HttpLocalRateLimit {
        total: Some(Limit {
            requests_per_second: 5,
        }),
        ..HttpLocalRateLimit::default()
    };
    let server: inbound::Server =
        policies::http_server(Some(limit), vec![policies::authz("all", &[])]);
    mesh.control
        .set_server("orders", mesh.orders.app.address.port(), server);
    let client = mesh.client();
    for _ in 0..1000 {
        if let Err(status) = client.unary(UNARY, b"").await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            let scope = &["ratelimit_scope=\"total\""];
            assert_eq!(
                metric(
                    &mesh.orders.sidecar,
                    "inbound_http_local_ratelimit_total",
                    scope
                ),
                1.0
            );
            return;
        }
    }
    panic!("never refused");
}

#[tokio::test]
async fn a_backend_may_be_one_endpoint_that_discovery_does_not_know() {
    let mesh = Mesh::start().await;
    let backend = policies::forward(mesh.orders.endpoint("orders"));
    mesh.control.set_policy(
        "forward:1",
        policies::grpc(vec![policies::grpc_rule_to("", backend)], None),
    );
    let client = mesh.gateway.client("forward:1");
    let response = client.unary(UNARY, b"forward").await.unwrap();
    assert_eq!(response.get_ref(), "forward");
}
