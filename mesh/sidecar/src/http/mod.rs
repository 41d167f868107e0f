//! HTTP as both sides of the sidecar use it: bodies, clients, servers, and what errors look like on the wire.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod observe;
pub(crate) mod orig_proto;
pub(crate) mod request_body;
pub(crate) mod respond;
pub(crate) mod server;
mod stream_queue;

use std::future::Future;

pub(crate) use body::ResponseBody;
pub(crate) use request_body::RequestBody;

use crate::error::ProxyError;

/// A request on its way through the layers. Boxed: each layer's future holds it, and those are moved a lot.
pub(crate) type Request = Box<http::Request<RequestBody>>;
/// A response on its way back.
pub(crate) type Response = http::Response<ResponseBody>;

/// A layer of the stack, or what is behind the last one.
///
/// Not `tower::Service`: a stack is built once per policy and shared by all requests, so layers take `&self`, and
/// their futures need neither a box nor a clone of what is inside. They compose with `tower::Layer` all the same.
pub(crate) trait Serve: Send + Sync {
    /// Answers a request.
    fn call(&self, request: Request) -> impl Future<Output = Result<Response, ProxyError>> + Send;
}

/// Whether a request is gRPC, so that an error must be a gRPC status.
pub(crate) fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The number in `grpc-status`.
pub(crate) fn grpc_status(headers: &http::HeaderMap) -> Option<u8> {
    let value = headers.get("grpc-status")?.as_bytes();
    match value {
        [units @ b'0'..=b'9'] => Some(units - b'0'),
        [b'1', units @ b'0'..=b'6'] => Some(10 + units - b'0'),
        // UNKNOWN: what a client makes of a status that it does not know.
        _ => Some(2),
    }
}
