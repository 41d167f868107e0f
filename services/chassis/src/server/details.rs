//! Every error says why in a form for machines: one that left a handler without an `ErrorInfo` gets it here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::methods::code_name;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";

/// Completes the headers or trailers that carry a status; gives its code if there is one.
pub(super) fn complete(headers: &mut HeaderMap, domain: &str) -> Option<Code> {
    let code = Code::from_bytes(headers.get(STATUS)?.as_bytes());
    if code != Code::Ok && !headers.contains_key(DETAILS) {
        let details = ErrorDetails::with_error_info(code_name(code), domain, []);
        if code == Code::Unimplemented && !headers.contains_key(MESSAGE) {
            headers.insert(
                MESSAGE,
                HeaderValue::from_static("this service has no such method"),
            );
        }
        // With the message: many clients read it from here once there are details.
        let bare = Status::from_header_map(headers);
        let message = bare.as_ref().map_or("", Status::message);
        let status = Status::with_error_details(code, message, details);
        let encoded = STANDARD_NO_PAD.encode(status.details());
        if let Ok(value) = HeaderValue::from_str(&encoded) {
            headers.insert(DETAILS, value);
        }
    }
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(status: Status) -> HeaderMap {
        let mut headers = HeaderMap::new();
        status
            .add_header(&mut headers)
            .expect("a status fits into headers");
        headers
    }

    #[test]
    fn a_bare_status_gets_its_code_as_reason() {
        let mut bare = headers(Status::not_found("no such thing"));
        assert_eq!(complete(&mut bare, "orders.sagamesh"), Some(Code::NotFound));
        let status = Status::from_header_map(&bare).expect("a status");
        assert_eq!(status.message(), "no such thing");
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("NOT_FOUND", "orders.sagamesh")
        );
    }

    #[test]
    fn what_is_there_stays() {
        let problem = crate::Domain("x.sagamesh").problem(Code::Aborted, "LOST_RACE", "again");
        let mut full = headers(problem.into());
        let before = full.clone();
        assert_eq!(complete(&mut full, "orders.sagamesh"), Some(Code::Aborted));
        assert_eq!(full, before);
        let mut fine = headers(Status::ok(""));
        assert_eq!(complete(&mut fine, "orders.sagamesh"), Some(Code::Ok));
        assert!(!fine.contains_key(DETAILS));
        assert_eq!(complete(&mut HeaderMap::new(), "orders.sagamesh"), None);
    }
}
