use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chassis::env::{Connector, Env};
use sagamesh_api::ledger::v1::SubscribeRequest;
use sagamesh_api::ledger::v1::feed_service_client::FeedServiceClient;
use sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient;
use tonic::Code;

use crate::fake::{ask, start, start_with};

#[tokio::test]
async fn an_absent_peer_is_unavailable_and_found_when_it_comes() {
    let spare = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = spare.local_addr().expect("an address");
    drop(spare);
    let mut client =
        NotificationServiceClient::new(chassis::channel(&Env::system(), &address.to_string()));
    let status = client
        .list_notifications(ask("ok"))
        .await
        .expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains(&address.to_string()) && status.message().contains("refused"),
        "{status:?}"
    );

    let first = start_with(|config| config.server.listen = address);
    client
        .list_notifications(ask("ok"))
        .await
        .expect("it is there now");
    first.tasks.begin_drain();
    first.served.await.expect("no panic").expect("drained");
    assert_eq!(
        client
            .list_notifications(ask("ok"))
            .await
            .expect_err("gone")
            .code(),
        Code::Unavailable
    );
    let _second = start_with(|config| config.server.listen = address);
    client
        .list_notifications(ask("ok"))
        .await
        .expect("it is back, by the same channel");
}

#[tokio::test]
async fn calls_share_one_connection() {
    let server = start();
    let mut env = Env::system();
    let count = Arc::new(AtomicUsize::new(0));
    let (tcp, counted) = (Connector::tcp(), Arc::clone(&count));
    env.connector = Connector::new(move |uri| {
        counted.fetch_add(1, Ordering::Relaxed);
        tcp.connect(uri)
    });
    let client = NotificationServiceClient::new(chassis::channel(&env, &server.url()));
    let calls = (0..50).map(|_| {
        let mut client = client.clone();
        async move { client.list_notifications(ask("ok")).await.map(drop) }
    });
    futures_util::future::try_join_all(calls)
        .await
        .expect("all answered");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn as_many_headers_as_a_sidecar_lets_through_are_taken() {
    let server = start();
    let mut client =
        NotificationServiceClient::new(chassis::channel(&Env::system(), &server.url()));
    let status = client
        .list_notifications(ask("headers 24576"))
        .await
        .expect_err("not found");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_stream_is_unavailable() {
    let server = start_with(|config| config.server.drain_timeout = std::time::Duration::ZERO);
    let mut feed = FeedServiceClient::new(chassis::channel(&Env::system(), &server.url()));
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
        .expect("ok")
        .expect("the first message");
    server.tasks.begin_drain();
    let status = stream.message().await.expect_err("cut off");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn a_bad_address_is_explained_at_every_call() {
    for address in ["https://127.0.0.1:1", "not an address", ""] {
        let mut client = NotificationServiceClient::new(chassis::channel(&Env::system(), address));
        let status = client
            .list_notifications(ask("ok"))
            .await
            .expect_err("not valid");
        assert!(status.message().contains("is not valid"), "{status:?}");
    }
}
