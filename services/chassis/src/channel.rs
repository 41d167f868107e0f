//! The ONE way to talk to another service: a lazy channel that hands on the remaining deadline and the trace.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::deadline;
use crate::env::Env;
use crate::methods;
use crate::trace;

/// How long a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Deadline of a unary call made outside of any request, if it brings none of its own.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A channel to the service at `peer`: `http://127.0.0.1:50052`, or `orders:50051`.
///
/// It connects at the first call and again whenever the connection is lost; while the peer cannot be reached, calls
/// fail with UNAVAILABLE (nothing is retried here: that is the mesh's one tier). Each call carries the time that is
/// left for the request being served as `grpc-timeout` and its `traceparent`, and ends with DEADLINE_EXCEEDED when
/// the time is over. A peer address that is not valid makes every call fail with a sentence that says so.
pub fn channel(env: &Env, peer: &str) -> PeerChannel {
    let address = if peer.contains("://") {
        peer.to_owned()
    } else {
        format!("http://{peer}")
    };
    let connection = match Endpoint::from_shared(address) {
        Ok(endpoint) if endpoint.uri().scheme_str() == Some("http") => {
            Some(connect(env, &endpoint))
        }
        _ => None,
    };
    PeerChannel {
        connection,
        peer: Arc::from(peer),
        default_deadline: DEFAULT_DEADLINE,
    }
}

fn connect(env: &Env, endpoint: &Endpoint) -> Channel {
    let connector = env.connector.clone();
    let connect = tower::service_fn(move |uri: Uri| {
        let connecting = connector.connect(uri);
        async move { connecting.await.map(TokioIo::new) }
    });
    endpoint
        .clone()
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector_lazy(connect)
}

/// A channel to a peer; cloning is cheap, clones share the connection. Give it to a generated client:
/// `OrderServiceClient::new(channel)`.
#[derive(Clone, Debug)]
pub struct PeerChannel {
    connection: Option<Channel>,
    peer: Arc<str>,
    default_deadline: Duration,
}

impl PeerChannel {
    /// The same channel with another deadline for unary calls that have none (default 10 s).
    #[must_use]
    pub fn with_default_deadline(mut self, deadline: Duration) -> Self {
        self.default_deadline = deadline;
        self
    }

    /// The peer's address, as configured.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The deadline of a call: the earliest of its own, the served request's, and (for unary calls that have
    /// neither) the default.
    fn deadline_of(&self, request: &Request<Body>, now: Instant) -> Option<Instant> {
        let own = request
            .headers()
            .get(deadline::GRPC_TIMEOUT)
            .and_then(deadline::parse)
            .map(|timeout| now + timeout);
        match (own, deadline::current()) {
            (Some(own), Some(inherited)) => Some(own.min(inherited)),
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) if methods::is_streaming(request.uri().path()) => None,
            (None, None) => Some(now + self.default_deadline),
        }
    }
}

impl Service<Request<Body>> for PeerChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match &mut self.connection {
            Some(connection) => connection
                .poll_ready(cx)
                .map_err(|error| unavailable(&self.peer, &error)),
            None => Poll::Ready(Err(Status::internal(format!(
                "the peer address `{}` is not valid: write for example http://127.0.0.1:50051",
                self.peer
            )))),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let now = Instant::now();
        let deadline = self.deadline_of(&request, now);
        if let Some(deadline) = deadline {
            request.headers_mut().insert(
                deadline::GRPC_TIMEOUT,
                deadline::header(deadline.saturating_duration_since(now)),
            );
        }
        if !request.headers().contains_key(trace::TRACEPARENT)
            && let Some(traceparent) = trace::header()
        {
            request
                .headers_mut()
                .insert(trace::TRACEPARENT, traceparent);
        }
        let Some(connection) = &mut self.connection else {
            return Box::pin(async { Err(Status::internal("call before ready")) });
        };
        let answer = connection.call(request);
        let peer = Arc::clone(&self.peer);
        Box::pin(async move {
            let answered = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline, answer).await {
                    Ok(answered) => answered,
                    Err(_) => {
                        return Err(Status::deadline_exceeded(format!(
                            "{peer} did not answer within the deadline"
                        )));
                    }
                },
                None => answer.await,
            };
            answered.map_err(|error| match deadline {
                // tonic's own timer (of the header) may win by a hair, and would say CANCELLED.
                Some(deadline) if Instant::now() >= deadline => {
                    Status::deadline_exceeded(format!("{peer} did not answer within the deadline"))
                }
                _ => unavailable(&peer, &error),
            })
        })
    }
}

fn unavailable(peer: &str, error: &dyn std::error::Error) -> Status {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    Status::unavailable(format!("{peer} cannot be reached: {text}"))
}
