//! HTTP/2 by hand, for clients that mean harm.

/// What a client of HTTP/2 begins with, and settings that say nothing.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Reasons of resets and of the end of a connection.
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame in bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a POST, each a literal that goes into no table.
pub(crate) fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "orders.sagamesh.svc.cluster.local:50051"),
    ] {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// One large header into the table, then a byte for each time it is used again: 8,000 bytes for 16 MB.
pub(crate) fn bomb(path: &str) -> Vec<u8> {
    let mut block = headers(path);
    block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend(vec![b'a'; 4000]);
    block.extend(vec![0xbe; 4000]);
    block
}

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The reason of a reset, or of the end of the connection.
    pub(crate) fn reason(&self) -> Option<u32> {
        let at = match self.kind {
            RESET => 0,
            GOAWAY => 4,
            _ => return None,
        };
        let reason = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(reason.try_into().unwrap()))
    }
}

/// The whole frames at the start of `bytes`, which are taken out.
pub(crate) fn parse(bytes: &mut Vec<u8>) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, s1, s2, s3, s4, rest @ ..] = bytes.as_slice() {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = rest.get(..length) else {
            break;
        };
        frames.push(Frame {
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes([*s1, *s2, *s3, *s4]),
            payload: payload.to_vec(),
        });
        bytes.drain(..9 + length);
    }
    frames
}
