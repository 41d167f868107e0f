//! Idempotency by request id, as inbox rows.

use prost::Message;
use sha2::{Digest as _, Sha256};

/// What the inbox knows of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<'a> {
    /// Not seen: decide, and record the reply with [`record`].
    Never,
    /// The same request succeeded before: answer with this reply.
    Before(&'a [u8]),
    /// The request id was used for something else: refuse.
    Otherwise,
}

/// The inbox key of a request id.
pub fn key(method: &str, request_id: &str) -> String {
    format!("request/{method}/{request_id}")
}

/// A fingerprint of a request's content. Clear its `request_id` first if the message has one and it is part of the key anyway.
pub fn fingerprint(message: &impl Message) -> [u8; 32] {
    Sha256::digest(message.encode_to_vec()).into()
}

/// The row that records a reply.
pub fn record(fingerprint: &[u8; 32], reply: &[u8]) -> Vec<u8> {
    [fingerprint.as_slice(), reply].concat()
}

/// What a row, found by [`View::inbox`](crate::View::inbox), says about a request.
pub fn check<'a>(row: Option<&'a [u8]>, fingerprint: &[u8; 32]) -> Seen<'a> {
    match row.map(|row| row.split_at_checked(32)) {
        None => Seen::Never,
        Some(Some((recorded, reply))) if recorded == fingerprint => Seen::Before(reply),
        Some(_) => Seen::Otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_from_another_one_with_the_same_id() {
        let (one, two) = (
            fingerprint(&"one".to_owned()),
            fingerprint(&"two".to_owned()),
        );
        let row = record(&one, b"reply");
        assert_eq!(check(None, &one), Seen::Never);
        assert_eq!(check(Some(&row), &one), Seen::Before(b"reply"));
        assert_eq!(check(Some(&row), &two), Seen::Otherwise);
        assert_eq!(check(Some(b"short"), &one), Seen::Otherwise);
    }
}
