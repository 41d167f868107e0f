//! Calls through both sidecars.

use bytes::Bytes;
use mesh_sidecar::testing::identity_of;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use crate::harness::{Mesh, ORDERS, UNARY, metric};
use crate::proxy::{is_linkerd, skipped};

#[tokio::test]
async fn a_unary_call_goes_through_and_carries_the_callers_identity() {
    let mesh = Mesh::start().await;
    let response = mesh.client().unary(UNARY, b"hello").await.unwrap();
    assert_eq!(response.get_ref(), "hello");
    assert_eq!(
        response.metadata().get("saw-l5d-client-id").unwrap(),
        &identity_of("gateway")
    );
    let gateway = &mesh.gateway.sidecar;
    assert_eq!(
        metric(gateway, "outbound_grpc_route_backend_requests_total", &[]),
        1.0
    );
    assert_eq!(
        metric(
            &mesh.orders.sidecar,
            "inbound_http_authz_allow_total",
            &["srv_name=\"server\""]
        ),
        1.0
    );
    let id = format!("client_id=\"{}\"", identity_of("gateway"));
    assert_eq!(
        metric(
            &mesh.orders.sidecar,
            "request_total",
            &["direction=\"inbound\"", &id]
        ),
        1.0
    );
}

#[tokio::test]
async fn a_spoofed_client_id_is_replaced_and_traces_pass_untouched() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mesh = Mesh::start().await;
    let mut request = Request::new(Bytes::new());
    request
        .metadata_mut()
        .append("l5d-client-id", "payments.evil".parse().unwrap());
    request
        .metadata_mut()
        .append("l5d-client-id", "operator.evil".parse().unwrap());
    request
        .metadata_mut()
        .insert("traceparent", TRACE.parse().unwrap());
    let response = mesh.client().send(UNARY, request).await.unwrap();
    assert_eq!(
        response.metadata().get("saw-l5d-client-id").unwrap(),
        &identity_of("gateway")
    );
    assert_eq!(response.metadata().get("saw-traceparent").unwrap(), TRACE);
}

#[tokio::test]
async fn a_bidirectional_stream_answers_message_by_message_and_ends_with_trailers() {
    let mesh = Mesh::start().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    let response = mesh
        .client()
        .stream("/test.Echo/Stream", ReceiverStream::new(receiver))
        .await
        .unwrap();
    let mut answers = response.into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap(), "first");
    for round in 0..100 {
        let message = Bytes::from(format!("message {round}"));
        sender.send(message.clone()).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap(), message);
    }
    drop(sender);
    assert_eq!(answers.message().await.unwrap(), None);
    // Its trailers were read as its status: OK.
    assert_eq!(
        metric(
            &mesh.gateway.sidecar,
            "response_total",
            &["grpc_status=\"0\"", "success"]
        ),
        1.0
    );
}

#[tokio::test]
async fn a_large_message_is_pushed_back_on_and_arrives_whole() {
    let mesh = Mesh::start().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let response = mesh.client().unary(UNARY, &large).await.unwrap();
    assert!(response.get_ref() == &large);
}

#[tokio::test]
async fn many_calls_at_once_share_connections() {
    let mesh = Mesh::start().await;
    let client = mesh.client();
    let calls: Vec<_> = (0..200)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move {
                let message = format!("call {i}");
                let response = client.unary(UNARY, message.as_bytes()).await.unwrap();
                assert_eq!(response.get_ref(), &message);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(
        metric(&mesh.gateway.sidecar, "tcp_open_total", &["peer=\"dst\""]),
        1.0
    );
}

#[tokio::test]
async fn the_override_names_the_destination() {
    if is_linkerd("gateway") {
        return skipped("it takes the header in its ingress mode alone");
    }
    let mesh = Mesh::start().await;
    let mut request = Request::new(Bytes::from_static(b"hi"));
    request
        .metadata_mut()
        .insert("l5d-dst-override", ORDERS.parse().unwrap());
    let response = mesh
        .gateway
        .client("something.else:1")
        .send(UNARY, request)
        .await
        .unwrap();
    assert_eq!(response.get_ref(), "hi");
}

#[tokio::test]
async fn an_unknown_destination_is_unavailable_and_says_so() {
    if is_linkerd("gateway") {
        return skipped("it passes on what it does not know, to where it was meant to go");
    }
    let mesh = Mesh::start().await;
    let status = mesh
        .gateway
        .client("nobody.sagamesh:1")
        .unary(UNARY, b"")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "nobody.sagamesh:1: not known in the mesh");
    assert!(status.metadata().contains_key("l5d-proxy-error"));
}
