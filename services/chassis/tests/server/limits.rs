use chassis::problem;
use sagamesh_api::ledger::v1::SubscribeRequest;
use sagamesh_api::ledger::v1::feed_service_client::FeedServiceClient;
use tonic::Code;

use crate::fake::{ask, start, start_with};

#[tokio::test]
async fn above_the_limit_requests_are_shed_with_a_time_to_retry() {
    let server = start_with(|config| config.server.max_concurrent_requests = 2);
    let client = server.client();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.list_notifications(ask("wait")).await })
        })
        .collect();
    server
        .fake
        .begun
        .acquire_many(2)
        .await
        .expect("open")
        .forget();
    let status = client
        .clone()
        .list_notifications(ask("ok"))
        .await
        .expect_err("shed");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(problem::reason(&status).as_deref(), Some("OVERLOADED"));
    assert!(problem::retry_after(&status).is_some());

    server.fake.gate.add_permits(2);
    for call in waiting {
        call.await.expect("no panic").expect("waited");
    }
    client
        .clone()
        .list_notifications(ask("ok"))
        .await
        .expect("there is room again");
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_its_body_ends() {
    let server = start_with(|config| config.server.max_concurrent_requests = 1);
    let channel = chassis::channel(&chassis::Env::system(), &server.url());
    let mut feed = FeedServiceClient::new(channel.clone());
    let request = SubscribeRequest {
        consumer: "pending".to_owned(),
        ..Default::default()
    };
    let mut stream = feed
        .subscribe(request)
        .await
        .expect("a stream")
        .into_inner();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the first message");
    let status = server
        .client()
        .list_notifications(ask("ok"))
        .await
        .expect_err("the stream holds the only place");
    assert_eq!(status.code(), Code::ResourceExhausted);

    // Health is answered all the same.
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    health
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .expect("health");

    drop(stream);
    // The server learns of it by a reset frame; each refused try is an answer, so this ends.
    while server.client().list_notifications(ask("ok")).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_panic_is_internal_and_tells_nothing() {
    let server = start();
    let status = server
        .client()
        .list_notifications(ask("panic"))
        .await
        .expect_err("a panic");
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(problem::reason(&status).as_deref(), Some("PANIC"));
    assert!(!status.message().contains("on purpose"));
    server
        .client()
        .list_notifications(ask("ok"))
        .await
        .expect("the server lives on");
}

#[tokio::test]
async fn a_panic_in_a_stream_ends_the_stream_with_internal() {
    let server = start();
    let mut feed = FeedServiceClient::new(chassis::channel(&chassis::Env::system(), &server.url()));
    let request = SubscribeRequest {
        consumer: "panic".to_owned(),
        ..Default::default()
    };
    let mut stream = feed
        .subscribe(request)
        .await
        .expect("a stream")
        .into_inner();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the first message");
    assert_eq!(
        stream.message().await.expect_err("the panic").code(),
        Code::Internal
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_with_the_limit() {
    let server = start_with(|config| config.server.max_request_bytes = 1000);
    server
        .client()
        .list_notifications(ask(&format!("ok {}", "x".repeat(900))))
        .await
        .expect("below the limit");
    let status = server
        .client()
        .list_notifications(ask(&format!("ok {}", "x".repeat(2000))))
        .await
        .expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(
        problem::reason(&status).as_deref(),
        Some("REQUEST_TOO_LARGE")
    );
    assert!(status.message().contains("at most 1000"), "{status:?}");
}

#[tokio::test]
async fn field_violations_arrive() {
    let server = start();
    let status = server
        .client()
        .list_notifications(ask("fail"))
        .await
        .expect_err("invalid");
    assert_eq!(
        (status.code(), problem::reason(&status).as_deref()),
        (Code::InvalidArgument, Some("INVALID_ARGUMENT"))
    );
    assert_eq!(
        problem::fields(&status),
        [("order_id".to_owned(), "is wrong on purpose".to_owned())]
    );
}
