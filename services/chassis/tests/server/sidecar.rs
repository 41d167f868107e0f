//! Peers reached through a sidecar: a tiny one, which does nothing but follow the name that a request bears.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use chassis::Env;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sagamesh_api::ledger::v1::SubscribeRequest;
use sagamesh_api::ledger::v1::feed_service_client::FeedServiceClient;
use sagamesh_api::shop::notifications::v1::notification_service_client::NotificationServiceClient;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use crate::fake::{ask, start};

const PEER: &str = "http://notifications.sagamesh.svc.cluster.local:50051";

/// `:authority` and `l5d-dst-override` of each request.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A sidecar that sends everything to `app`.
async fn sidecar(app: SocketAddr) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Seen::default();
    let told = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let told = Arc::clone(&told);
            let forward = service_fn(move |request| forward(app, Arc::clone(&told), request));
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), forward));
        }
    });
    (address, seen)
}

async fn forward(
    app: SocketAddr,
    seen: Seen,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, Infallible> {
    let authority = request.uri().authority().map(ToString::to_string);
    let destination = request.headers().get("l5d-dst-override");
    let destination = destination.and_then(|value| value.to_str().ok());
    seen.lock().expect("not poisoned").push((
        authority.unwrap_or_default(),
        destination.unwrap_or_default().to_owned(),
    ));
    let stream = TcpStream::connect(app).await.expect("the app");
    let client = http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = client
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    Ok(sender.send_request(request).await.expect("an answer"))
}

#[tokio::test]
async fn each_request_names_its_peer_to_the_sidecar() {
    let server = start();
    let (outbound, seen) = sidecar(server.address).await;
    let env = Env::system().through(Some(outbound));
    let mut client = NotificationServiceClient::new(chassis::channel(&env, PEER));
    client
        .list_notifications(ask("ok"))
        .await
        .expect("answered");
    let failed = client
        .list_notifications(ask("fail"))
        .await
        .expect_err("on purpose");
    assert_eq!(failed.code(), Code::InvalidArgument, "as the peer said it");

    let mut feed = FeedServiceClient::new(chassis::channel(&env, PEER));
    let request = SubscribeRequest {
        consumer: "pending".to_owned(),
        ..Default::default()
    };
    let mut stream = feed
        .subscribe(request)
        .await
        .expect("a stream")
        .into_inner();
    let first = stream.message().await.expect("ok").expect("a message");
    assert_eq!(first.position, 1);

    let name = "notifications.sagamesh.svc.cluster.local:50051";
    let seen = seen.lock().expect("not poisoned");
    assert_eq!(*seen, vec![(name.to_owned(), name.to_owned()); 3]);
}

#[tokio::test]
async fn a_sidecar_that_is_away_is_named() {
    let spare = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = spare.local_addr().expect("an address");
    drop(spare);
    let env = Env::system().through(Some(address));
    let mut client = NotificationServiceClient::new(chassis::channel(&env, PEER));
    let status = client
        .list_notifications(ask("ok"))
        .await
        .expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable);
    let text = status.message();
    assert!(
        text.contains(PEER) && text.contains(&format!("sidecar at {address}")),
        "{text}"
    );
}

#[tokio::test]
async fn without_a_sidecar_no_destination_is_named() {
    let server = start();
    let (as_peer, seen) = sidecar(server.address).await;
    let channel = chassis::channel(&Env::system().through(None), &as_peer.to_string());
    let mut client = NotificationServiceClient::new(channel);
    client
        .list_notifications(ask("ok"))
        .await
        .expect("answered");
    let seen = seen.lock().expect("not poisoned");
    assert_eq!(*seen, vec![(as_peer.to_string(), String::new())]);
}
