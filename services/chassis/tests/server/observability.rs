use sagamesh_api::ledger::v1::SubscribeRequest;
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::{v1, v1alpha};

use crate::fake::{SERVICES, ask, start, start_with};

#[tokio::test]
async fn metrics_count_calls_by_service_method_and_code() {
    let server = start();
    server
        .client()
        .list_notifications(ask("fail"))
        .await
        .expect_err("invalid");
    server
        .client()
        .list_notifications(ask("panic"))
        .await
        .expect_err("a panic");
    server
        .raw(
            "/ledger.v1.FeedService/Subscribe",
            &[],
            &SubscribeRequest::default(),
        )
        .await;
    server
        .raw(
            "/stranger.Service/Method",
            &[],
            &SubscribeRequest::default(),
        )
        .await;
    let metrics = server.admin("/metrics").await;
    for expected in [
        r#"grpc_server_calls_total{service="shop.notifications.v1.NotificationService",method="ListNotifications",code="INVALID_ARGUMENT"}"#,
        r#"grpc_server_calls_total{service="shop.notifications.v1.NotificationService",method="ListNotifications",code="INTERNAL"}"#,
        r#"grpc_server_calls_total{service="ledger.v1.FeedService",method="Subscribe",code="OK"}"#,
        r#"grpc_server_calls_total{service="unknown",method="unknown",code="UNIMPLEMENTED"}"#,
        r#"grpc_server_duration_seconds_bucket{service="ledger.v1.FeedService",method="Subscribe",le="0.001"}"#,
        "grpc_server_panics_total",
        r#"grpc_client_calls_total{service="shop.notifications.v1.NotificationService",method="ListNotifications",code="INVALID_ARGUMENT"}"#,
        r#"grpc_client_duration_seconds_bucket{service="shop.notifications.v1.NotificationService",method="ListNotifications",le="0.001"}"#,
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(expected))
            .unwrap_or_else(|| panic!("{expected} is not in\n{metrics}"));
        if !expected.contains("bucket") {
            assert!(!line.ends_with(" 0"), "{line}");
        }
    }
    assert!(
        !metrics.contains("stranger"),
        "a stranger cannot make metrics grow"
    );
}

#[tokio::test]
async fn probes() {
    let server = start();
    assert!(server.admin("/live").await.starts_with("HTTP/1.1 200"));
    // Ready once it serves.
    server
        .client()
        .list_notifications(ask("ok"))
        .await
        .expect("serving");
    assert!(server.admin("/ready").await.starts_with("HTTP/1.1 200"));
    assert!(server.admin("/else").await.starts_with("HTTP/1.1 404"));
    let mut client = server.client();
    let under_way = tokio::spawn(async move { client.list_notifications(ask("wait")).await });
    server.fake.begun.acquire().await.expect("open").forget();
    server.tasks.begin_drain();
    server.tasks.draining().cancelled().await;
    while !server.admin("/ready").await.starts_with("HTTP/1.1 503") {
        tokio::task::yield_now().await;
    }
    assert!(
        server.admin("/live").await.starts_with("HTTP/1.1 200"),
        "draining is not dead"
    );
    server.fake.gate.add_permits(1);
    under_way.await.expect("no panic").expect("answered");
}

#[tokio::test]
async fn reflection_lists_what_is_served_in_both_versions() {
    let server = start();
    let channel = chassis::channel(&chassis::Env::system(), &server.url());

    let ask = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .expect("reflection")
        .into_inner();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answers
        .next()
        .await
        .expect("one")
        .expect("ok")
        .message_response
    else {
        panic!("no list")
    };
    let mut names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    for service in SERVICES {
        assert!(names.contains(&service.to_owned()), "{names:?}");
    }
    assert!(
        names.contains(&"grpc.health.v1.Health".to_owned()),
        "{names:?}"
    );
    assert!(
        !names.contains(&"shop.orders.v1.OrderService".to_owned()),
        "only what is served: {names:?}"
    );

    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                SERVICES[1].to_owned(),
            ),
        ),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .expect("reflection")
        .into_inner();
    let answer = answers
        .next()
        .await
        .expect("one")
        .expect("ok")
        .message_response;
    assert!(
        matches!(
            answer,
            Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let server = start_with(|config| config.server.reflection = false);
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(chassis::channel(
        &chassis::Env::system(),
        &server.url(),
    ));
    let status = client
        .server_reflection_info(tokio_stream::empty())
        .await
        .expect_err("off");
    assert_eq!(status.code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn every_error_has_an_error_info() {
    let server = start();
    let raw = server
        .raw(
            "/stranger.Service/Method",
            &[],
            &SubscribeRequest::default(),
        )
        .await;
    assert_eq!(
        chassis::problem::reason(&raw.status).as_deref(),
        Some("UNIMPLEMENTED")
    );
    assert_eq!(raw.status.message(), "this service has no such method");
    // A handler's bare status.
    let status = server
        .client()
        .list_notifications(ask("nothing of the kind"))
        .await
        .expect_err("bare");
    assert_eq!(
        chassis::problem::reason(&status).as_deref(),
        Some("INVALID_ARGUMENT")
    );
    // A message that is no protobuf.
    let raw = server
        .raw("/ledger.v1.FeedService/Subscribe", &[], &Garbage)
        .await;
    assert!(chassis::problem::reason(&raw.status).is_some(), "{raw:?}");
}

/// Bytes that are not a message.
#[derive(Debug, Default)]
struct Garbage;

impl prost::Message for Garbage {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&[0xff; 7]);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        7
    }

    fn clear(&mut self) {}
}
