//! What a client that means harm can send a sidecar, for tests with random bytes and for fuzzers: each of these takes any
//! bytes, and panics when what must hold for all of them does not.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use linkerd2_proxy_api::{inbound, outbound};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::Layer as _;

use super::policies::{grpc_server, server_route};
use crate::error::ProxyError;
use crate::front::RespondLayer;
use crate::http::server::{self, HttpVersion, Violations, limits};
use crate::http::{Request, RequestBody, Response, ResponseBody, Serve, orig_proto};
use crate::metrics::errors::Errors;
use crate::metrics::{Labels, Registry};
use crate::policy::inbound::ServerPolicy;
use crate::policy::matching;
use crate::policy::outbound::ClientPolicy;
use crate::transport_header::TransportHeader;

/// Far longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest transport header that may be read: preface, length, header.
const LONGEST_HEADER: usize = 23 + 4 + 4096;

/// The first bytes on a connection of a peer's.
///
/// # Panics
/// If more is read than a header may have, or what was read is not what it says when it is written again.
pub fn transport_header(bytes: &[u8]) {
    let mut rest = bytes;
    let read = runtime().block_on(TransportHeader::read(&mut rest));
    let taken = bytes.len() - rest.len();
    assert!(taken <= LONGEST_HEADER, "{taken} bytes were read");
    let Ok(header) = read else { return };
    assert!(header.port() != Some(0));
    assert_eq!(
        header.port().map(i32::from),
        Some(header.port).filter(|port| (1..=65_535).contains(port))
    );
    let written = header.encode_with_preface();
    assert_eq!(written.len(), 27 + header.encoded_len());
    let again = runtime().block_on(TransportHeader::read(&mut written.as_slice()));
    assert_eq!(again.ok().as_ref(), Some(&header));
}

/// What the control plane says of a policy: all of it is understood, since what is not fails every request.
///
/// # Panics
/// If it is not.
pub fn policies(inbound: Vec<inbound::Server>, outbound: Vec<outbound::OutboundPolicy>) {
    for server in inbound {
        let understood = ServerPolicy::from_proto(server);
        assert!(understood.is_ok(), "{understood:?}");
    }
    for policy in outbound {
        let understood = ClientPolicy::from_proto(policy);
        assert!(understood.is_ok(), "{understood:?}");
    }
}

/// A whole connection, as either side of a sidecar serves it: the first byte says whether HTTP/1 or HTTP/2, and whether
/// HTTP/2's preface is sent as well.
///
/// # Panics
/// If the connection does not end when its client has.
pub fn http(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let version = if first & 1 == 0 {
        HttpVersion::Http2
    } else {
        HttpVersion::Http1
    };
    let preface: &[u8] = if first & 3 == 0 {
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
    } else {
        b""
    };
    let bytes = [preface, bytes].concat();
    runtime().block_on(async {
        let ended = tokio::time::timeout(PATIENCE, connection(version, &bytes));
        assert!(ended.await.is_ok(), "the connection never ends");
    });
}

async fn connection(version: HttpVersion, bytes: &[u8]) {
    let registry = Registry::default();
    let errors = Errors::new(&registry, "inbound_http_errors_total", Labels::new());
    let layer = RespondLayer {
        errors: Arc::new(errors),
    };
    let stack = Arc::new(layer.layer(Routes(policy())));
    let respond = move |mut request: http::Request<Incoming>| {
        let stack = Arc::clone(&stack);
        if version == HttpVersion::Http1 {
            orig_proto::strip_connection_headers(request.headers_mut());
        }
        async move {
            let request = Box::new(request.map(RequestBody::from));
            stack.respond(request, true).await
        }
    };
    let (mut client, io) = tokio::io::duplex(64 * 1024);
    let drain = CancellationToken::new();
    let violations = Violations::new(&registry, "inbound");
    let serve = server::serve(
        io,
        version,
        limits::PEER_STREAMS,
        drain,
        &violations,
        respond,
    );
    let attack = async move {
        let (mut read, mut write) = tokio::io::split(&mut client);
        let send = async {
            // It may be hung up on before all is sent.
            let _ = write.write_all(bytes).await;
            let _ = write.shutdown().await;
        };
        let mut answer = Vec::new();
        let receive = read.read_to_end(&mut answer);
        let _ = tokio::join!(send, receive);
    };
    tokio::join!(serve, attack);
}

/// Finds the route of a request, reads its body, and answers with nothing.
struct Routes(ServerPolicy);

impl Serve for Routes {
    async fn call(&self, request: Request) -> Result<Response, ProxyError> {
        use http_body_util::BodyExt as _;
        let routes = self.0.protocol.routes()?;
        if matching::find(routes, &request).is_none() {
            return Err(ProxyError::NoRoute);
        }
        let mut body = (*request).into_body();
        // One that breaks off is the client's to know of.
        while let Some(Ok(_)) = body.frame().await {}
        Ok(Response::new(ResponseBody::empty()))
    }
}

#[expect(clippy::expect_used, reason = "for tests alone")]
fn policy() -> ServerPolicy {
    let routes = ["Get", "Put"].map(|method| server_route(method, "a.A", method, Vec::new()));
    let server = grpc_server(routes.into(), Vec::new());
    ServerPolicy::from_proto(server).expect("a policy that is understood")
}

#[expect(clippy::expect_used, reason = "for tests alone")]
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
