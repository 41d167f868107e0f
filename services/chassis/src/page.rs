//! Page sizes and opaque page tokens (AIP-158).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::problem::{Domain, Problem};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 8;

/// The page size to use: 0 means `default`, too much is coerced to `max`.
///
/// # Errors
/// INVALID_ARGUMENT if it is negative.
pub fn page_size(domain: Domain, requested: i32, default: u32, max: u32) -> Result<u32, Problem> {
    match u32::try_from(requested) {
        Err(_) => Err(domain.invalid_field(
            "page_size",
            format!("is {requested}: must not be negative; leave it out for {default}"),
        )),
        Ok(0) => Ok(default.min(max)),
        Ok(size) => Ok(size.min(max)),
    }
}

/// A token for the page after `cursor`, good only with the same `filter` (any text that is the same for the same
/// query, for example the request's filter fields joined).
pub fn encode_token(filter: &str, cursor: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(HEADER + cursor.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&fingerprint(filter).to_be_bytes());
    bytes.extend_from_slice(cursor);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The cursor in `token`; `None` for the empty token (the first page).
///
/// # Errors
/// INVALID_ARGUMENT if the token was not made by [`encode_token`] or belongs to another filter.
pub fn decode_token(domain: Domain, filter: &str, token: &str) -> Result<Option<Vec<u8>>, Problem> {
    if token.is_empty() {
        return Ok(None);
    }
    let invalid = |description: &str| domain.invalid_field("page_token", description);
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| {
        invalid("is not a token of this service: start from the first page, without a token")
    })?;
    match bytes.split_at_checked(HEADER) {
        Some((header, cursor)) if header[0] == VERSION => {
            if header[1..] == fingerprint(filter).to_be_bytes() {
                Ok(Some(cursor.to_vec()))
            } else {
                Err(invalid(
                    "belongs to another filter: use it with the same filter, or start from the first page",
                ))
            }
        }
        _ => Err(invalid(
            "is not a token of this service: start from the first page, without a token",
        )),
    }
}

/// FNV-1a: stable over builds and machines; it tells filters apart, it does not protect anything.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ERRORS: Domain = Domain("test.sagamesh");

    #[test]
    fn sizes() {
        assert_eq!(page_size(ERRORS, 0, 50, 100), Ok(50));
        assert_eq!(page_size(ERRORS, 7, 50, 100), Ok(7));
        assert_eq!(page_size(ERRORS, 1000, 50, 100), Ok(100));
        assert_eq!(
            page_size(ERRORS, -1, 50, 100).expect_err("negative").code(),
            tonic::Code::InvalidArgument
        );
    }

    proptest! {
        #[test]
        fn tokens_come_back_with_their_filter_only(filter in ".*", other in ".*", cursor in proptest::collection::vec(any::<u8>(), 0..40)) {
            let token = encode_token(&filter, &cursor);
            prop_assert_eq!(decode_token(ERRORS, &filter, &token), Ok(Some(cursor)));
            if other != filter {
                prop_assert!(decode_token(ERRORS, &other, &token).is_err());
            }
        }

        #[test]
        fn garbage_is_refused_and_never_panics(token in ".+") {
            prop_assert!(decode_token(ERRORS, "f", &token).is_err());
        }
    }
}
