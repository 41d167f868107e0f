//! The transport header: what a sidecar says first on a connection to another, so that one port serves all of the
//! app's.
//!
//! ```text
//! "transport.l5d.io/v1\r\n\r\n"   length: u32, big endian   Header, in protobuf
//! ```

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The protocol's name in TLS's ALPN.
pub(crate) const ALPN: &[u8] = b"transport.l5d.io/v1";
const PREFACE: &[u8] = b"transport.l5d.io/v1\r\n\r\n";
/// A header with the longest name that DNS allows is far below this.
const MAX_LENGTH: usize = 4096;

/// What the connection is for.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct TransportHeader {
    /// The app's port.
    #[prost(int32, tag = "1")]
    pub(crate) port: i32,
    /// A name for a gateway to route by; empty otherwise.
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// What follows; without it, bytes.
    #[prost(message, optional, tag = "3")]
    pub(crate) session_protocol: Option<SessionProtocol>,
}

/// What follows the header.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct SessionProtocol {
    /// Its kind.
    #[prost(oneof = "Kind", tags = "1, 2")]
    pub(crate) kind: Option<Kind>,
}

/// The kinds of what may follow.
#[derive(Clone, Copy, PartialEq, Eq, prost::Oneof)]
pub(crate) enum Kind {
    /// HTTP/1.
    #[prost(message, tag = "1")]
    Http1(Http1),
    /// HTTP/2.
    #[prost(message, tag = "2")]
    Http2(Http2),
}

/// HTTP/1.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Http1 {}

/// HTTP/2.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Http2 {}

impl TransportHeader {
    /// For a connection with HTTP/2 to `port`.
    pub(crate) fn http2(port: u16) -> Self {
        let session_protocol = Some(SessionProtocol {
            kind: Some(Kind::Http2(Http2 {})),
        });
        Self {
            port: port.into(),
            name: String::new(),
            session_protocol,
        }
    }

    /// As it stands on the connection.
    pub(crate) fn encode_with_preface(&self) -> Vec<u8> {
        let length = self.encoded_len();
        let mut bytes = Vec::with_capacity(PREFACE.len() + 4 + length);
        bytes.extend_from_slice(PREFACE);
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.extend(self.encode_to_vec());
        bytes
    }

    /// Reads one, and not a byte more.
    ///
    /// # Errors
    /// If the connection starts with something else.
    pub(crate) async fn read<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Self> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let mut preface = [0; PREFACE.len()];
        io.read_exact(&mut preface).await?;
        if preface != PREFACE {
            return Err(invalid(
                "the connection does not start with a transport header",
            ));
        }
        let length = io.read_u32().await? as usize;
        if length > MAX_LENGTH {
            return Err(invalid("the transport header is too long"));
        }
        let mut bytes = vec![0; length];
        io.read_exact(&mut bytes).await?;
        Self::decode(bytes.as_slice()).map_err(|error| invalid(&error.to_string()))
    }

    /// The app's port.
    pub(crate) fn port(&self) -> Option<u16> {
        u16::try_from(self.port).ok().filter(|port| *port != 0)
    }

    /// What follows.
    pub(crate) fn protocol(&self) -> Option<Kind> {
        self.session_protocol.and_then(|protocol| protocol.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_read_as_it_was_written() {
        let header = TransportHeader::http2(50051);
        let bytes = header.encode_with_preface();
        assert_eq!(&bytes[..23], b"transport.l5d.io/v1\r\n\r\n");
        // length 8: port (field 1, varint) and session_protocol (field 3) with an empty http2 (field 2).
        assert_eq!(
            &bytes[23..],
            [0, 0, 0, 8, 0x08, 0x83, 0x87, 0x03, 0x1a, 0x02, 0x12, 0x00]
        );
        let mut rest = [bytes.as_slice(), b"PRI"].concat();
        let mut io = rest.as_mut_slice() as &[u8];
        assert_eq!(TransportHeader::read(&mut io).await.unwrap(), header);
        assert_eq!(io, b"PRI");
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        for bytes in [
            b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n".as_slice(),
            b"transport.l5d.io/v1\r\n\r\n\xff\xff\xff\xff",
            b"transport.l5d.io/v1\r\n\r\n\0\0\0\x02\xff\xff",
            b"transport",
        ] {
            let mut io = bytes;
            assert!(TransportHeader::read(&mut io).await.is_err(), "{bytes:?}");
        }
    }
}
