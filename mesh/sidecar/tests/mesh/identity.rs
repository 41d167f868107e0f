//! Who may connect at all: TLS, certificates, the transport header.

use std::sync::Arc;
use std::time::Duration;

use mesh_sidecar::testing::{Authority, ControlPlane, identity_of, linkerd, policies};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;

use crate::harness::{Mesh, ORDERS, Pod, UNARY, eventually, metric};
use crate::proxy::{is_linkerd, skipped};

/// A client of TLS that trusts the mesh and has this certificate and key.
pub(crate) fn tls(
    anchors: &str,
    certificate: Option<(Vec<u8>, Vec<u8>)>,
    alpn: &[&[u8]],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_slice_iter(anchors.as_bytes()) {
        roots.add(anchor.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            builder
                .with_client_auth_cert(vec![certificate.into()], key)
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub(crate) const TRANSPORT: &[u8] = b"transport.l5d.io/v1";

/// Connects to the sidecar of orders, and reads until it hangs up.
async fn is_refused(mesh: &Mesh, connector: TlsConnector) {
    let stream = TcpStream::connect(mesh.orders.sidecar.inbound_addr())
        .await
        .unwrap();
    let name = ServerName::try_from(identity_of("orders")).unwrap();
    if let Ok(mut stream) = connector.connect(name, stream).await {
        let mut rest = Vec::new();
        // Either an alert or the end.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }
}

/// Waits until so many connections were refused for `reason`.
async fn counted(mesh: &Mesh, reason: &str, times: f64) {
    if is_linkerd("orders") {
        return skipped("it counts refusals in other terms");
    }
    let label = format!("reason=\"{reason}\"");
    eventually(reason, || {
        let name = "inbound_tcp_refused_total";
        metric(&mesh.orders.sidecar, name, &[&label]) == times
    })
    .await;
}

#[tokio::test]
async fn a_plaintext_client_is_refused() {
    let mesh = Mesh::start().await;
    let mut stream = TcpStream::connect(mesh.orders.sidecar.inbound_addr())
        .await
        .unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    counted(&mesh, "plaintext", 1.0).await;
    assert_eq!(mesh.orders.app.calls(), 0);
}

#[tokio::test]
async fn clients_without_a_valid_certificate_of_the_mesh_are_refused() {
    let mesh = Mesh::start().await;
    let authority = mesh.control.authority();
    let anchors = authority.anchors();
    let gateway = identity_of("gateway");
    let stranger = Authority::new().unwrap();
    let cases = [
        ("no_certificate", None),
        (
            "unknown_issuer",
            Some(stranger.client(&gateway, false).unwrap()),
        ),
        ("expired", Some(authority.client(&gateway, true).unwrap())),
    ];
    for (reason, certificate) in cases {
        is_refused(&mesh, tls(&anchors, certificate, &[TRANSPORT])).await;
        counted(&mesh, reason, 1.0).await;
    }
    // A valid one, but nothing that this port speaks.
    let certificate = authority.client(&gateway, false).unwrap();
    is_refused(&mesh, tls(&anchors, Some(certificate.clone()), &[b"h2"])).await;
    is_refused(&mesh, tls(&anchors, Some(certificate), &[])).await;
    counted(&mesh, "no_transport_header", 2.0).await;
    assert_eq!(mesh.orders.app.calls(), 0);
}

#[tokio::test]
async fn a_peer_with_another_name_than_discovery_says_is_not_talked_to() {
    let mesh = Mesh::start().await;
    // Discovery says payments, but orders answers there.
    mesh.control.set_policy(
        "payments:1",
        policies::grpc(vec![policies::grpc_rule("", "payments:1")], None),
    );
    mesh.control
        .set_endpoints("payments:1", vec![mesh.orders.endpoint("payments")]);
    let status = mesh
        .gateway
        .client("payments:1")
        .unary(UNARY, b"secret")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(mesh.orders.app.calls(), 0);
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_is_not_talked_to() {
    let mesh = Mesh::start().await;
    let other = ControlPlane::start().await.unwrap();
    let stranger = Pod::start(&other, "orders").await;
    stranger.sidecar.ready().await;
    mesh.control
        .set_endpoints(ORDERS, vec![stranger.endpoint("orders")]);
    mesh.control.set_policy(
        "stranger:1",
        policies::grpc(vec![policies::grpc_rule("", ORDERS)], None),
    );
    let status = mesh
        .gateway
        .client("stranger:1")
        .unary(UNARY, b"secret")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(stranger.app.calls(), 0);
}

#[tokio::test]
async fn not_ready_until_certified() {
    if is_linkerd("orders") {
        return skipped("it does not start without its token");
    }
    let control = ControlPlane::start().await.unwrap();
    let pod = Pod::start_with(&control, "orders", |config| {
        config.identity.token_file = "/nowhere".into()
    })
    .await;
    let get = |path: &'static str| {
        let address = pod.sidecar.admin_addr();
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    assert!(get("/live").await.starts_with("HTTP/1.1 200"));
    assert!(get("/ready").await.starts_with("HTTP/1.1 503"));
    assert!(get("/metrics").await.contains("proxy_build_info"));
    assert_eq!(control.authority().signed(), 0);
}

#[tokio::test]
async fn certificates_are_renewed_under_load_without_a_failed_call() {
    let control = ControlPlane::start().await.unwrap();
    // Linkerd's proxy renews no sooner than after 10 s.
    let life = if linkerd::is_inside() { 15 } else { 3 };
    control.authority().set_life(Duration::from_secs(life));
    let mesh = Mesh::start_on(control, vec![policies::grpc_rule("", ORDERS)], None).await;
    let before = mesh.control.authority().signed();
    let client = mesh.client();
    // Until both have been renewed twice, and so a first certificate would have run out.
    while mesh.control.authority().signed() < before + 4 {
        client.unary(UNARY, b"x").await.unwrap();
    }
    // Connections that are made now use the new certificates.
    let again = Mesh::start_on(
        mesh.control.clone(),
        vec![policies::grpc_rule("", ORDERS)],
        None,
    )
    .await;
    again.client().unary(UNARY, b"x").await.unwrap();
    client.unary(UNARY, b"x").await.unwrap();
}

#[tokio::test]
async fn between_the_sidecars_there_is_tls_13_and_nothing_to_read() {
    const SECRET: &[u8] = b"a secret that nobody may read on the way";
    let mesh = Mesh::start().await;
    let relay = Relay::start(mesh.orders.sidecar.inbound_addr()).await;
    // The relay stands in for the sidecar's port, on the same address.
    let endpoint = policies::endpoint(mesh.orders.app.address, relay.port, &identity_of("orders"));
    mesh.control.set_endpoints("relayed:2", vec![endpoint]);
    mesh.control.set_policy(
        "relayed:1",
        policies::grpc(vec![policies::grpc_rule("", "relayed:2")], None),
    );
    mesh.gateway
        .client("relayed:1")
        .unary(UNARY, SECRET)
        .await
        .unwrap();
    let (sent, received) = relay.recorded();
    assert!(sent.len() > SECRET.len() && received.len() > SECRET.len());
    for bytes in [&sent, &received] {
        assert!(
            !contains(bytes, b"secret")
                && !contains(bytes, b"grpc")
                && !contains(bytes, b"test.Echo")
        );
        assert_eq!(bytes[0], 0x16, "it starts with a handshake of TLS");
    }
    // supported_versions in the server's hello: TLS 1.3, which hides all that comes after it.
    // Its key share may be large.
    let hello = &received[..received.len().min(2000)];
    assert!(contains(hello, &[0x00, 0x2b, 0x00, 0x02, 0x03, 0x04]));
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Passes bytes on, and keeps them.
struct Relay {
    port: u16,
    sent: Arc<std::sync::Mutex<Vec<u8>>>,
    received: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Relay {
    async fn start(target: std::net::SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind((target.ip(), 0))
            .await
            .unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            sent: Arc::default(),
            received: Arc::default(),
        };
        let (sent, received) = (Arc::clone(&relay.sent), Arc::clone(&relay.received));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(target).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(copy(client_read, server_write, Arc::clone(&sent)));
                tokio::spawn(copy(server_read, client_write, Arc::clone(&received)));
            }
        });
        relay
    }

    fn recorded(&self) -> (Vec<u8>, Vec<u8>) {
        (
            self.sent.lock().unwrap().clone(),
            self.received.lock().unwrap().clone(),
        )
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    kept: Arc<std::sync::Mutex<Vec<u8>>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        kept.lock().unwrap().extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
