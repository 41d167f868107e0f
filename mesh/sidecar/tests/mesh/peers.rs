//! Peers that are no sidecar of ours: they have a certificate of the mesh, and send what they like after it.

use std::time::Duration;

use mesh_sidecar::testing::{identity_of, policies};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::{Mesh, Pod, eventually, metric};
use crate::identity::{TRANSPORT, tls};
use crate::proxy::{is_linkerd, skipped};

/// What follows the transport header, as it stands in it.
#[derive(Clone, Copy)]
pub(crate) enum Session {
    Bytes,
    Http1,
    Http2,
}

/// Connects to the sidecar of orders as the gateway, and asks for `port`.
async fn peer(mesh: &Mesh, port: u16, session: Session) -> TlsStream<TcpStream> {
    peer_called("gateway", mesh, port, session).await
}

/// Connects to the sidecar of orders as `workload`, and asks for `port`.
pub(crate) async fn peer_called(
    workload: &str,
    mesh: &Mesh,
    port: u16,
    session: Session,
) -> TlsStream<TcpStream> {
    let authority = mesh.control.authority();
    let certificate = authority.client(&identity_of(workload), false).unwrap();
    let connector = tls(&authority.anchors(), Some(certificate), &[TRANSPORT]);
    let stream = TcpStream::connect(mesh.orders.sidecar.inbound_addr())
        .await
        .unwrap();
    let name = ServerName::try_from(identity_of("orders")).unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    // port = 1, in three bytes of seven bits; session_protocol = 3, with http1 = 1 or http2 = 2.
    let port = u32::from(port);
    let mut header = vec![
        0x08,
        port as u8 | 0x80,
        (port >> 7) as u8 | 0x80,
        (port >> 14) as u8,
    ];
    match session {
        Session::Bytes => {}
        Session::Http1 => header.extend([0x1a, 0x02, 0x0a, 0x00]),
        Session::Http2 => header.extend([0x1a, 0x02, 0x12, 0x00]),
    }
    let mut bytes = [TRANSPORT, b"\r\n\r\n"].concat();
    bytes.extend((header.len() as u32).to_be_bytes());
    bytes.extend(header);
    stream.write_all(&bytes).await.unwrap();
    stream
}

/// Sends a request to the app, which closes the connection after it. What came back.
async fn ask(stream: &mut TlsStream<TcpStream>, headers: &str) -> String {
    let request = format!("GET /x HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    // It may be hung up on before all is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    String::from_utf8_lossy(&rest(stream).await).into_owned()
}

/// What comes until it is hung up on, or for some seconds.
async fn rest(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    rest
}

/// A connection of bytes to the app of orders, which becomes a port of bytes for it. It has passed some.
pub(crate) async fn open_bytes(mesh: &Mesh) -> TlsStream<TcpStream> {
    let port = mesh.orders.app.address.port();
    let all = vec![policies::authz("all", &[])];
    mesh.control
        .set_server("orders", port, policies::opaque_server(all));
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = peer(mesh, port, Session::Bytes).await;
        // The policy takes a moment to arrive.
        if ping(&mut stream).await {
            return stream;
        }
        assert!(tokio::time::Instant::now() < limit, "bytes never passed");
    }
}

/// Whether the app answers on an open connection.
async fn ping(stream: &mut TlsStream<TcpStream>) -> bool {
    let request = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.is_ok() && matches!(stream.read(&mut [0; 1024]).await, Ok(1..))
}

pub(crate) fn refused(mesh: &Mesh, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    metric(
        &mesh.orders.sidecar,
        "inbound_tcp_refused_total",
        &[&reason],
    )
}

#[tokio::test]
async fn bytes_do_not_get_past_the_policy_of_requests() {
    if is_linkerd("orders") {
        return skipped("it counts refusals in other terms");
    }
    let mesh = Mesh::start().await;
    let port = mesh.orders.app.address.port();
    let all = || vec![policies::authz("all", &[])];
    let cases = [
        ("not_opaque", policies::grpc_server(Vec::new(), all())),
        ("not_opaque", policies::http_server(None, all())),
        ("not_detected", policies::detect_server(all())),
        ("unauthorized", policies::opaque_server(Vec::new())),
    ];
    for (reason, server) in cases {
        mesh.control.set_server("orders", port, server);
        let before = refused(&mesh, reason);
        // The policy takes a moment to arrive.
        while refused(&mesh, reason) == before {
            let mut stream = peer(&mesh, port, Session::Bytes).await;
            let answer = ask(&mut stream, "l5d-client-id: forged\r\n").await;
            assert_eq!(answer, "");
        }
    }
    assert_eq!(mesh.orders.app.calls(), 0);
}

#[tokio::test]
async fn bytes_to_an_opaque_port_pass_until_its_policy_says_otherwise() {
    if is_linkerd("orders") {
        return skipped("it counts refusals in other terms");
    }
    let mesh = Mesh::start().await;
    let port = mesh.orders.app.address.port();
    let all = || vec![policies::authz("all", &[])];
    let mut open = open_bytes(&mesh).await;
    // A change that still admits the peer leaves the connection alone, and one that does not ends it.
    let before = refused(&mesh, "not_opaque");
    let gateway = vec![policies::authz("gateway", &[identity_of("gateway")])];
    mesh.control
        .set_server("orders", port, policies::opaque_server(gateway));
    mesh.control
        .set_server("orders", port, policies::grpc_server(Vec::new(), all()));
    rest(&mut open).await;
    eventually("it is counted", || refused(&mesh, "not_opaque") > before).await;
}

#[tokio::test]
async fn a_sidecar_that_drains_lets_bytes_go_on() {
    if is_linkerd("orders") {
        return skipped("when its drain begins is not to be seen");
    }
    let mesh = Mesh::start().await;
    let mut open = open_bytes(&mesh).await;
    let Pod { app, sidecar, .. } = mesh.orders;
    let mut serving = sidecar.serving();
    let shutdown = tokio::spawn(sidecar.shutdown());
    serving.wait_for(|serving| !serving).await.unwrap();
    assert!(ping(&mut open).await);
    assert!(!shutdown.is_finished());
    drop(open);
    // Long before the time to drain is over.
    let shutdown = tokio::time::timeout(Duration::from_secs(5), shutdown);
    shutdown.await.unwrap().unwrap();
    drop(app);
}

#[tokio::test]
async fn a_peer_cannot_have_its_own_name_removed() {
    let mesh = Mesh::start().await;
    let port = mesh.orders.app.address.port();
    let all = vec![policies::authz("all", &[])];
    mesh.control
        .set_server("orders", port, policies::http_server(None, all));
    let headers = [
        "connection: close\r\n",
        "connection: close, l5d-client-id\r\n",
        "connection: L5d-Client-Id\r\nconnection: close\r\nl5d-client-id: forged\r\n",
    ];
    let client = format!("client={} ", identity_of("gateway"));
    for headers in headers {
        let mut stream = peer(&mesh, port, Session::Http1).await;
        let answer = ask(&mut stream, headers).await;
        assert!(answer.contains(&client), "{answer}");
    }
}

#[tokio::test]
async fn a_peer_that_asks_for_every_port_fills_no_memory() {
    if is_linkerd("orders") {
        return skipped("it counts refusals in other terms");
    }
    let mesh = Mesh::start().await;
    let mut open = Vec::new();
    for port in 10_000..10_260 {
        open.push(peer(&mesh, port, Session::Bytes).await);
    }
    eventually("the last are refused", || {
        refused(&mesh, "too_many_ports") >= 5.0
    })
    .await;
    let name = "inbound_tcp_transport_header_connections_total";
    let sidecar = &mesh.orders.sidecar;
    assert_eq!(
        metric(sidecar, name, &["target_port=\"other\""]),
        refused(&mesh, "too_many_ports")
    );
    assert_eq!(metric(sidecar, name, &["target_port=\"10259\""]), 0.0);
}
