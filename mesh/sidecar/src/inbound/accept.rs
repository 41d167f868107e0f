//! From a TCP connection to a peer with a name and a port: TLS with a certificate of the mesh, then the transport
//! header. Whatever else comes is refused, with the reason in the log and in a metric.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::peer_labels::PeerLabels;
use crate::http::server::HttpVersion;
use crate::identity::peer_name;
use crate::io::{Io, TcpCounts};
use crate::metrics::{Labels, Registry};
use crate::transport_header::{ALPN, Kind, TransportHeader};

/// How long a peer may take until its header is read.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// Who is calling, and what for.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where the connection comes from.
    pub(crate) address: SocketAddr,
    /// The name in its certificate.
    pub(crate) identity: Arc<str>,
    /// The app's port that it asks for.
    pub(crate) port: u16,
}

/// Accepts connections of peers.
pub(crate) struct Acceptor {
    tls: TlsAcceptor,
    registry: Registry,
    own_ports: Vec<u16>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// A connection whose header was read, who is calling, and which HTTP follows (`None`: bytes).
pub(super) type Accepted = (TlsStream<TcpStream>, Peer, Option<HttpVersion>);

/// Why a connection is refused: the metric's label, and the log's words.
struct Refused(&'static str, String);

impl Acceptor {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            tls: TlsAcceptor::from(Arc::clone(&shared.identity.server)),
            registry: shared.registry.clone(),
            own_ports: shared.own_ports.clone(),
        }
    }

    /// Reads up to the end of the header.
    pub(super) async fn accept(&self, stream: TcpStream, address: SocketAddr) -> Option<Accepted> {
        let accepted = tokio::time::timeout(HANDSHAKE, self.handshake(stream, address));
        match accepted.await {
            Ok(Ok(accepted)) => Some(accepted),
            Ok(Err(Refused(reason, why))) => {
                self.refuse(address, reason, &why);
                None
            }
            Err(_) => {
                self.refuse(address, "timeout", "no transport header in time");
                None
            }
        }
    }

    /// Counts and logs that a connection is refused.
    pub(super) fn refuse(&self, address: SocketAddr, reason: &'static str, why: &str) {
        self.count_refused(reason);
        tracing::warn!(client = %address, reason, why, "Connection refused");
    }

    fn count_refused(&self, reason: &'static str) {
        let labels = Labels::new().with("reason", reason);
        self.registry
            .counter(
                "inbound_tcp_refused_total",
                "Connections of peers that were refused.",
                &labels,
            )
            .increment();
    }

    /// Counts that a connection whose handshake was unfinished made room for a newer one. Not a line in the log for
    /// each: there may be very many.
    pub(super) fn evicted(&self, address: SocketAddr) {
        self.count_refused("evicted");
        tracing::debug!(client = %address, "Connection refused: too many handshakes are unfinished");
    }

    /// Counts a connection with a header. Its port is only named if it is `followed`: a peer may ask for any, and each
    /// that is named is a series.
    pub(super) fn count(&self, peer: &Peer, version: Option<HttpVersion>, followed: bool) {
        let name = match version {
            Some(HttpVersion::Http2) => "http/2",
            Some(HttpVersion::Http1) => "http/1",
            None => "",
        };
        let labels = Labels::new().with("session_protocol", name);
        let labels = if followed {
            labels.with("target_port", peer.port)
        } else {
            labels.with("target_port", "other")
        };
        let labels = labels
            .with("target_name", "")
            .with("client_id", &peer.identity);
        self.registry
            .counter(
                "inbound_tcp_transport_header_connections_total",
                "Connections with a transport header.",
                &labels,
            )
            .increment();
    }

    /// The bytes of a connection to a port that is followed, counted.
    pub(super) fn counted(&self, tls: TlsStream<TcpStream>, labels: &PeerLabels) -> Io {
        let labels = Labels::new()
            .with("direction", "inbound")
            .with("peer", "src")
            .and(&labels.of_server());
        Io::tls(
            tokio_rustls::TlsStream::from(tls),
            TcpCounts::new(&self.registry, &labels),
        )
    }

    async fn handshake(&self, stream: TcpStream, address: SocketAddr) -> Result<Accepted, Refused> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first == [TLS_HANDSHAKE] => {}
            Ok(1) => {
                return Err(Refused(
                    "plaintext",
                    "the client does not speak TLS".to_owned(),
                ));
            }
            _ => return Err(Refused("closed", "the client said nothing".to_owned())),
        }
        let mut tls = self
            .tls
            .accept(stream)
            .await
            .map_err(|error| Refused(tls_reason(&error), error.to_string()))?;
        let (_, session) = tls.get_ref();
        if session.alpn_protocol() != Some(ALPN) {
            return Err(Refused(
                "no_transport_header",
                "the client did not offer transport.l5d.io/v1".to_owned(),
            ));
        }
        let identity = peer_name(session.peer_certificates());
        let identity = identity
            .ok_or_else(|| Refused("no_identity", "the certificate has no DNS name".to_owned()))?;
        let header = TransportHeader::read(&mut tls)
            .await
            .map_err(|error| Refused("transport_header", error.to_string()))?;
        let port = header
            .port()
            .ok_or_else(|| Refused("transport_header", "it names no port".to_owned()))?;
        if !header.name.is_empty() {
            return Err(Refused(
                "gateway",
                format!("this is no gateway: asked for {}", header.name),
            ));
        }
        if self.own_ports.contains(&port) {
            return Err(Refused(
                "own_port",
                format!("port {port} is the sidecar's own"),
            ));
        }
        let version = match header.protocol() {
            Some(Kind::Http2(_)) => Some(HttpVersion::Http2),
            Some(Kind::Http1(_)) => Some(HttpVersion::Http1),
            None => None,
        };
        let peer = Peer {
            address,
            identity,
            port,
        };
        Ok((tls, peer, version))
    }
}

fn tls_reason(error: &std::io::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    match error
        .get_ref()
        .and_then(|error| error.downcast_ref::<Error>())
    {
        Some(Error::NoCertificatesPresented) => "no_certificate",
        // Another authority of the same name shows as a signature that does not verify.
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "unknown_issuer",
        Some(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "expired",
        Some(Error::InvalidCertificate(_)) => "bad_certificate",
        Some(Error::NoApplicationProtocol) => "no_transport_header",
        _ => "tls",
    }
}
