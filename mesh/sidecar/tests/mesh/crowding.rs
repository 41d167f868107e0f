//! What one client can take away from others, and what not: places, connections, streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use linkerd2_proxy_api::destination::WeightedAddr;
use mesh_sidecar::testing::policies;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::Code;

use crate::frames::{
    self, ACK, END_HEADERS, HEADERS, PREFACE, REFUSED_STREAM, SETTINGS, frame, headers,
};
use crate::harness::{Mesh, ORDERS, UNARY, eventually, metric, next_ip};
use crate::identity::tls;
use crate::peers::{Session, peer_called, refused};

#[tokio::test]
async fn clients_that_never_show_who_they_are_do_not_keep_peers_out() {
    const SILENT: usize = 64;
    let mesh = Mesh::with_orders(|config| {
        config.inbound.max_handshakes = 8;
        config.inbound.max_connections = 2;
    })
    .await;
    let inbound = mesh.orders.sidecar.inbound_addr();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(inbound).await.unwrap());
    }
    eventually("the oldest make room", || {
        refused(&mesh, "evicted") == (SILENT - 8) as f64
    })
    .await;
    assert!(matches!(silent[0].read(&mut [0]).await, Ok(0) | Err(_)));
    mesh.client().unary(UNARY, b"x").await.unwrap();
    // Nor do those that say hello, and nothing more.
    let connector = tls(&mesh.control.authority().anchors(), None, &[]);
    let mut hello = Vec::new();
    for _ in 0..SILENT {
        let (client, mut server) = tokio::io::duplex(16 * 1024);
        let name = rustls::pki_types::ServerName::try_from("orders").unwrap();
        let connecting = connector.connect(name, client);
        let read = async {
            let mut bytes = vec![0; 4096];
            let length = server.read(&mut bytes).await.unwrap();
            bytes.truncate(length);
            bytes
        };
        let bytes = tokio::select! {
            bytes = read => bytes,
            _ = connecting => unreachable!("nobody answers"),
        };
        let mut stream = TcpStream::connect(inbound).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        hello.push(stream);
    }
    mesh.client().unary(UNARY, b"x").await.unwrap();
}

#[tokio::test]
async fn no_peer_takes_all_connections() {
    let mesh = Mesh::with_orders(|config| config.inbound.max_connections = 4).await;
    let port = mesh.orders.app.address.port();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(peer_called("mallory", &mesh, port, Session::Http2).await);
    }
    eventually("the third is refused", || {
        refused(&mesh, "too_many_of_peer") == 1.0
    })
    .await;
    mesh.client().unary(UNARY, b"x").await.unwrap();
    // Three are open; of two more there is room for one.
    open.push(peer_called("payments", &mesh, port, Session::Http2).await);
    open.push(peer_called("payments", &mesh, port, Session::Http2).await);
    eventually("the fifth is refused", || {
        refused(&mesh, "too_many_connections") == 1.0
    })
    .await;
    mesh.client().unary(UNARY, b"x").await.unwrap();
    // A place that is given back is there for others.
    open.clear();
    eventually("they are gone", || {
        let open = &["direction=\"inbound\"", "peer=\"src\""];
        metric(&mesh.orders.sidecar, "tcp_open_connections", open) == 1.0
    })
    .await;
    let mut again = peer_called("payments", &mesh, port, Session::Http1).await;
    let request = b"POST /test.Echo/Unary HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    again.write_all(request).await.unwrap();
    assert!(again.read(&mut [0; 64]).await.unwrap() > 0);
}

#[tokio::test]
async fn a_peer_that_holds_every_stream_of_the_app_leaves_others_theirs() {
    // What the app allows on a connection, and what the sidecar does.
    const OF_APP: usize = 200;
    const OF_PEER: u32 = 512;
    let mesh = Mesh::start().await;
    mesh.client().unary(UNARY, b"x").await.unwrap();
    let before = mesh.orders.app.calls();
    let port = mesh.orders.app.address.port();
    let mut stream = peer_called("mallory", &mesh, port, Session::Http2).await;
    let mut bytes = PREFACE.to_vec();
    let block = headers(UNARY);
    for n in 0..=OF_PEER {
        // Without an end: the app waits for the rest.
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &block));
    }
    stream.write_all(&bytes).await.unwrap();
    let mut received = Vec::new();
    let reset = loop {
        assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
        let refused = |frame: &frames::Frame| frame.reason() == Some(REFUSED_STREAM);
        if let Some(reset) = frames::parse(&mut received).into_iter().find(refused) {
            break reset;
        }
    };
    assert_eq!(reset.stream, 2 * OF_PEER + 1);
    eventually("the app has no stream left for it", || {
        mesh.orders.app.calls() == before + OF_APP
    })
    .await;
    let client = mesh.client();
    for _ in 0..50 {
        client.unary(UNARY, b"x").await.unwrap();
    }
    assert_eq!(mesh.orders.app.calls(), before + OF_APP + 50);
}

#[tokio::test]
async fn no_peer_has_all_requests_under_way() {
    let mesh = Mesh::with_orders(|config| config.inbound.max_in_flight = 8).await;
    let port = mesh.orders.app.address.port();
    let mut stream = peer_called("mallory", &mesh, port, Session::Http2).await;
    let mut bytes = PREFACE.to_vec();
    for n in 0..8 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &headers(UNARY)));
    }
    stream.write_all(&bytes).await.unwrap();
    mesh.orders.app.called(4).await;
    for _ in 0..50 {
        mesh.client().unary(UNARY, b"x").await.unwrap();
    }
    assert_eq!(mesh.orders.app.calls(), 4 + 50);
}

#[tokio::test]
async fn the_app_waits_when_it_has_too_many_connections() {
    let mesh = Mesh::with_gateway(|config| config.outbound.max_connections = 1).await;
    let idle = TcpStream::connect(mesh.gateway.sidecar.outbound_addr());
    let idle = idle.await.unwrap();
    let client = mesh.client();
    let mut call = tokio::spawn(async move { client.unary(UNARY, b"x").await });
    let early = tokio::time::timeout(Duration::from_millis(200), &mut call).await;
    assert!(early.is_err(), "{early:?}");
    drop(idle);
    assert_eq!(call.await.unwrap().unwrap().get_ref(), "x");
}

/// An endpoint in plain text that is no sidecar.
fn foreign(address: std::net::SocketAddr) -> WeightedAddr {
    WeightedAddr {
        tls_identity: None,
        protocol_hint: None,
        ..policies::endpoint(address, 1, "orders")
    }
}

/// Requests wait so long for an endpoint, or for a stream of it.
const FAILFAST: Duration = Duration::from_millis(200);

async fn mesh_with(endpoint: WeightedAddr) -> Mesh {
    let mut backend = policies::backend(ORDERS);
    backend.queue.as_mut().unwrap().failfast_timeout = policies::time(FAILFAST);
    let mesh = Mesh::start_with(vec![policies::grpc_rule_to("", backend)], None).await;
    mesh.control.set_endpoints(ORDERS, vec![endpoint]);
    mesh
}

/// Allows no streams at all on each connection (SETTINGS_MAX_CONCURRENT_STREAMS = 0), says when the client has heard of
/// it, and ends the connection after `life`.
fn stingy(listener: TcpListener, heard: Arc<Notify>, life: Option<Duration>) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::Relaxed);
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]);
                stream.write_all(&settings).await.unwrap();
                let mut preface = [0; PREFACE.len() - 9];
                stream.read_exact(&mut preface).await.unwrap();
                let mut received = Vec::new();
                let listen = async {
                    while stream.read_buf(&mut received).await.unwrap_or(0) > 0 {
                        let ack =
                            |frame: &frames::Frame| (frame.kind, frame.flags) == (SETTINGS, ACK);
                        if frames::parse(&mut received).iter().any(ack) {
                            heard.notify_one();
                        }
                    }
                };
                let _ = tokio::time::timeout(life.unwrap_or(Duration::MAX), listen).await;
            });
        }
    });
    connections
}

/// Calls at one time, which all fail within a time that is far longer than they should need.
async fn failures(mesh: &Mesh) -> Vec<tonic::Status> {
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = mesh.client();
            tokio::spawn(async move { client.unary(UNARY, b"x").await.unwrap_err() })
        })
        .collect();
    let mut failures = Vec::new();
    for call in calls {
        let ended = tokio::time::timeout(100 * FAILFAST, call).await;
        failures.push(ended.expect("it waits for good").unwrap());
    }
    failures
}

#[tokio::test]
async fn a_peer_that_gives_no_stream_is_not_waited_for() {
    let listener = TcpListener::bind((next_ip(), 0)).await.unwrap();
    let mesh = mesh_with(foreign(listener.local_addr().unwrap())).await;
    let heard = Arc::new(Notify::new());
    stingy(listener, Arc::clone(&heard), None);
    // The first one may be sent before the peer has said anything, and then waits for its answer.
    let first = mesh.client();
    let first = tokio::spawn(async move { first.unary(UNARY, b"x").await });
    heard.notified().await;
    for status in failures(&mesh).await {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("HTTP/2 streams"), "{status}");
    }
    first.abort();
}

#[tokio::test]
async fn a_peer_that_ends_each_connection_is_given_up() {
    let listener = TcpListener::bind((next_ip(), 0)).await.unwrap();
    let mesh = mesh_with(foreign(listener.local_addr().unwrap())).await;
    let connections = stingy(listener, Arc::default(), Some(FAILFAST / 10));
    for status in failures(&mesh).await {
        let codes = [Code::Unavailable, Code::DeadlineExceeded];
        assert!(codes.contains(&status.code()), "{status}");
    }
    // Connections are not made as fast as they end.
    assert!(connections.load(Ordering::Relaxed) < 20);
}
