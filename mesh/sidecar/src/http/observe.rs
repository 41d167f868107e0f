//! What a layer wants to know of a response after it has passed it on.

use http::StatusCode;
use tokio::time::Instant;

use crate::error::ProxyError;

/// How a response ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// gRPC status, from the trailers or the headers.
    pub(crate) grpc_status: Option<u8>,
    /// Why it was cut off.
    pub(crate) error: Option<ProxyError>,
    /// The client went away before the end.
    pub(crate) cancelled: bool,
}

impl End {
    /// Without a response: the sidecar answers itself. The gRPC status is what a policy wants, or none.
    pub(crate) fn of_error(error: &ProxyError) -> Self {
        let (status, code) = error.status();
        let wanted = matches!(error, ProxyError::Injected { .. });
        Self {
            status,
            grpc_status: wanted.then_some(code as u8),
            error: Some(error.clone()),
            cancelled: false,
        }
    }

    /// Whether it counts as a failure of the server: for breakers.
    pub(crate) fn is_failure(&self) -> bool {
        if self.cancelled {
            return false;
        }
        if self.error.is_some() || self.status.is_server_error() {
            return true;
        }
        // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
        matches!(self.grpc_status, Some(2 | 4 | 7 | 13 | 14 | 15))
    }
}

/// Follows one response. Told of the end exactly once.
pub(crate) trait Observe: Send {
    /// A data frame of `len` bytes went by.
    fn data(&mut self, _len: usize) {}

    /// The response is over.
    fn end(&mut self, end: &End, now: Instant);
}
