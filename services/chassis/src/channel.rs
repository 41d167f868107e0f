//! The ONE way to talk to another service: a lazy channel that hands on the remaining deadline and the trace.

mod body;
mod connection;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri, header};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

pub use body::PeerBody;
use body::Record;
use connection::Connection;

use crate::deadline;
use crate::env::Env;
use crate::methods;
use crate::trace::{self, KeyValue};

/// How long a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Deadline of a unary call made outside of any request, if it brings none of its own.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A channel to the service at `peer`: `http://127.0.0.1:50052`, or `orders:50051`.
///
/// It connects at the first call and again whenever the connection is lost; while the peer cannot be reached, calls
/// fail at once with UNAVAILABLE (nothing that was sent is sent again here: retries are the mesh's one tier). Each
/// call carries the time that is left for the request being served as `grpc-timeout` and its `traceparent`, and ends
/// with DEADLINE_EXCEEDED when the time is over. A unary call that has no deadline gets one of 10 s
/// ([`PeerChannel::with_default_deadline`]); a streaming call has one only if it is given one. A peer address that
/// is not valid makes every call fail with a sentence that says so.
///
/// With a sidecar ([`Env::through`]) the connection goes to the sidecar and each request names the peer, as `:authority`
/// and as `l5d-dst-override`; the peer is then a name of the mesh: `http://orders.sagamesh.svc.cluster.local:50051`.
pub fn channel(env: &Env, peer: &str) -> PeerChannel {
    let address = if peer.contains("://") {
        peer.to_owned()
    } else {
        format!("http://{peer}")
    };
    let uri = address.parse::<Uri>().ok().filter(|uri| {
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
    });
    PeerChannel {
        server: uri.as_ref().map(server),
        connection: uri.map(|uri| Arc::new(Connection::new(env.connector.clone(), uri, peer))),
        peer: Arc::from(peer),
        default_deadline: DEFAULT_DEADLINE,
    }
}

/// A channel to a peer; cloning is cheap, clones share the connection. Give it to a generated client:
/// `OrderServiceClient::new(channel)`.
#[derive(Clone, Debug)]
pub struct PeerChannel {
    connection: Option<Arc<Connection>>,
    /// Host and port of the peer, for spans.
    server: Option<(Arc<str>, u16)>,
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

    /// What a call's span says from the beginning.
    fn attributes(&self, path: &str) -> [KeyValue; 4] {
        let (host, port) = match &self.server {
            Some((host, port)) => (Arc::clone(host), *port),
            None => (Arc::clone(&self.peer), 0),
        };
        [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", methods::span_name(path)),
            KeyValue::new("server.address", host),
            KeyValue::new("server.port", i64::from(port)),
        ]
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
    type Response = Response<PeerBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<PeerBody>, Status>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let now = Instant::now();
        let deadline = self.deadline_of(&request, now);
        let headers = request.headers_mut();
        if let Some(deadline) = deadline {
            headers.insert(
                deadline::GRPC_TIMEOUT,
                deadline::header(deadline.saturating_duration_since(now)),
            );
        }
        let sent = trace::of_request(headers);
        let span = trace::client(sent.as_ref());
        let known = sent.or_else(trace::inherited);
        if let Some(traceparent) = trace::of_span(&span).or(known) {
            headers.insert(trace::TRACEPARENT, traceparent);
        }
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("sagamesh/", env!("CARGO_PKG_VERSION"))),
        );
        let peer = Arc::clone(&self.peer);
        let Some(connection) = self.connection.clone() else {
            return Box::pin(async move {
                Err(Status::internal(format!(
                    "the peer address `{peer}` is not valid: write for example http://127.0.0.1:50051"
                )))
            });
        };
        let path = request.uri().path();
        trace::describe(&span, || methods::span_name(path), || self.attributes(path));
        let mut record = Record::start(path, now, span);
        Box::pin(async move {
            let answer = connection.send(request);
            let answered = match deadline {
                // An answer that is here wins over a deadline that has passed since.
                Some(deadline) => {
                    let answered = tokio::time::timeout_at(deadline, answer).await;
                    answered.unwrap_or_else(|_| Err(too_late(&peer)))
                }
                None => answer.await,
            };
            match answered {
                Ok(response) => {
                    record.see(response.headers());
                    Ok(response.map(|incoming| PeerBody::new(incoming, deadline, peer, record)))
                }
                Err(status) => {
                    record.end(status.code());
                    Err(status)
                }
            }
        })
    }
}

fn server(uri: &Uri) -> (Arc<str>, u16) {
    (
        Arc::from(uri.host().unwrap_or_default()),
        uri.port_u16().unwrap_or(80),
    )
}

fn too_late(peer: &str) -> Status {
    Status::deadline_exceeded(format!("{peer} did not answer within the deadline"))
}
