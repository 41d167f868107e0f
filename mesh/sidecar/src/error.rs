//! Why the sidecar answers a request itself, and what the answer is: one place for every error.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tonic::Code;

/// A boxed error.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why the sidecar answers a request itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProxyError {
    /// Authorization: who was refused, and by what.
    #[error("unauthorized request on route")]
    Unauthorized,
    /// The server's local rate limit.
    #[error("rate limit exceeded")]
    RateLimited,
    /// No route of the policy matches.
    #[error("no route found for request")]
    NoRoute,
    /// The whole request took longer than its policy allows.
    #[error("request timed out after {0:?}")]
    RequestTimeout(Duration),
    /// The response took longer than its policy allows, once the request was sent.
    #[error("response timed out after {0:?}")]
    ResponseTimeout(Duration),
    /// Nothing moved in either direction for longer than the policy allows.
    #[error("stream idle for {0:?}")]
    IdleTimeout(Duration),
    /// One try had no response headers in time.
    #[error("try timed out after {0:?}")]
    TryTimeout(Duration),
    /// Nothing behind this was available for some seconds.
    #[error("{0}: service in fail-fast")]
    FailFast(Arc<str>),
    /// More is under way, or waiting, than is allowed.
    #[error("{0}: overloaded")]
    LoadShed(&'static str),
    /// The policy names no backend that could serve this.
    #[error("no backend for the request: {0}")]
    NoBackend(Arc<str>),
    /// The control plane does not know the destination.
    #[error("{0}: not known in the mesh")]
    UnknownDestination(Arc<str>),
    /// The request does not say where it goes.
    #[error("the request names no destination: set :authority, Host or l5d-dst-override")]
    NoDestination,
    /// The policy cannot be understood. The log has said why.
    #[error("invalid policy: {0}")]
    InvalidPolicy(Arc<str>),
    /// A failure that the policy asks for.
    #[error("{message}")]
    Injected {
        /// HTTP status, for requests that are not gRPC.
        status: StatusCode,
        /// gRPC status, for those that are.
        code: Code,
        /// The policy's text.
        message: Arc<str>,
    },
    /// A redirect that the policy asks for.
    #[error("redirected to {location}")]
    Redirect {
        /// HTTP status.
        status: StatusCode,
        /// Where to.
        location: Arc<str>,
    },
    /// A connection's failure: of the stream, or of the whole connection.
    #[error("{0}")]
    Transport(Arc<TransportError>),
}

/// The failure of a connection to a peer or to the app.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {source}")]
pub struct TransportError {
    /// What was being done.
    pub context: &'static str,
    /// What the transport says.
    #[source]
    pub source: BoxError,
    /// Nothing of the request was processed: it may be sent again.
    pub refused: bool,
}

impl ProxyError {
    /// A failure of hyper's.
    pub(crate) fn transport(context: &'static str, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        let refused = h2_reason(source.as_ref()) == Some(h2::Reason::REFUSED_STREAM);
        Self::Transport(Arc::new(TransportError {
            context,
            source,
            refused,
        }))
    }

    /// Whether the request was certainly not processed.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Transport(error) if error.refused)
    }

    /// The answer in HTTP and in gRPC.
    pub fn status(&self) -> (StatusCode, Code) {
        match self {
            Self::Unauthorized => (StatusCode::FORBIDDEN, Code::PermissionDenied),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted),
            Self::NoRoute => (StatusCode::NOT_FOUND, Code::NotFound),
            Self::RequestTimeout(_)
            | Self::ResponseTimeout(_)
            | Self::IdleTimeout(_)
            | Self::TryTimeout(_)
            | Self::FailFast(_) => (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded),
            Self::LoadShed(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
            Self::NoBackend(_) | Self::UnknownDestination(_) | Self::Transport(_) => {
                (StatusCode::BAD_GATEWAY, Code::Unavailable)
            }
            Self::NoDestination => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
            Self::InvalidPolicy(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
            Self::Injected { status, code, .. } => (*status, *code),
            Self::Redirect { status, .. } => (*status, Code::NotFound),
        }
    }

    /// The `error` label of metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "ratelimit",
            Self::NoRoute => "no_route",
            Self::RequestTimeout(_) => "REQUEST_TIMEOUT",
            Self::ResponseTimeout(_) => "RESPONSE_HEADERS_TIMEOUT",
            Self::IdleTimeout(_) => "IDLE_TIMEOUT",
            Self::TryTimeout(_) => "RESPONSE_STREAM_TIMEOUT",
            Self::FailFast(_) => "FAIL_FAST",
            Self::LoadShed(_) => "LOAD_SHED",
            Self::NoBackend(_) | Self::UnknownDestination(_) => "no_backend",
            Self::NoDestination => "no_destination",
            Self::InvalidPolicy(_) => "invalid_policy",
            Self::Injected { .. } => "injected",
            Self::Redirect { .. } => "redirect",
            Self::Transport(error) => transport_label(error.source.as_ref()),
        }
    }

    /// Whether the connection that brought the request should be closed, so that the client dials again: what is
    /// behind it cannot be reached.
    pub(crate) fn closes_connection(&self) -> bool {
        matches!(self, Self::Transport(_) | Self::FailFast(_))
    }
}

/// How a connection or a stream failed, in the words of Linkerd's proxy.
fn transport_label(error: &(dyn StdError + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return match error.reason() {
                Some(h2::Reason::CANCEL) if error.is_reset() => "CANCEL",
                Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => "REFUSED",
                Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_reset() => "ENHANCE_YOUR_CALM",
                _ if error.is_reset() => "RESET",
                _ if error.is_go_away() => "GO_AWAY",
                _ if error.is_io() => "IO",
                _ => "UNKNOWN",
            };
        }
        if error.is::<std::io::Error>() {
            return "IO";
        }
        cause = error.source();
    }
    "UNKNOWN"
}

/// The reason of an HTTP/2 reset in an error's chain.
pub(crate) fn h2_reason(error: &(dyn StdError + 'static)) -> Option<h2::Reason> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error
            .downcast_ref::<h2::Error>()
            .and_then(h2::Error::reason)
        {
            return Some(reason);
        }
        cause = error.source();
    }
    None
}
