//! The sidecar's own answers: a gRPC status for gRPC, an HTTP status for the rest, and the `l5d-proxy-*` headers.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use http::{StatusCode, Version};

use super::{Response, ResponseBody};
use crate::error::ProxyError;

/// Why the sidecar answered itself.
pub(crate) const PROXY_ERROR: HeaderName = HeaderName::from_static("l5d-proxy-error");
/// `close`: the peer should close its connection and dial again.
pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("l5d-proxy-connection");

/// Whom the answer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// It speaks gRPC: wants a gRPC status.
    pub(crate) grpc: bool,
    /// Its HTTP version.
    pub(crate) version: Version,
    /// It is told why (peers of the mesh and the pod's own app are, others are not).
    pub(crate) informed: bool,
}

/// The answer to a request that failed with `error`.
pub(crate) fn answer(error: &ProxyError, client: Client) -> Response {
    let (status, code) = error.status();
    let mut response = Response::new(ResponseBody::empty());
    *response.version_mut() = client.version;
    let headers = response.headers_mut();
    if client.grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(i32::from(code)));
        headers.insert("grpc-message", message(error));
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if let ProxyError::Redirect { location, .. } = error
        && let Ok(location) = HeaderValue::from_str(location)
    {
        headers.insert(LOCATION, location);
    }
    if client.informed {
        headers.insert(PROXY_ERROR, message(error));
    }
    if error.closes_connection() {
        if client.informed {
            headers.insert(PROXY_CONNECTION, HeaderValue::from_static("close"));
        }
        if client.version <= Version::HTTP_11 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    *response.status_mut() = if client.grpc { StatusCode::OK } else { status };
    response
}

/// The trailers that end a gRPC response which failed after its headers.
pub(crate) fn trailers(error: &ProxyError) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(
        "grpc-status",
        HeaderValue::from(i32::from(error.status().1)),
    );
    trailers.insert("grpc-message", message(error));
    trailers
}

fn message(error: &ProxyError) -> HeaderValue {
    let text: String = error
        .to_string()
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect();
    HeaderValue::from_str(&text.replace('%', "%25"))
        .unwrap_or_else(|_| HeaderValue::from_static("proxy error"))
}
