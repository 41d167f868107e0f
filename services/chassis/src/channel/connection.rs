//! One HTTP/2 connection to a peer, made when it is needed and made again when it is gone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tonic::Status;
use tonic::body::Body;

use super::CONNECT_TIMEOUT;
use super::body::lost;
use crate::env::Connector;

/// Where a sidecar is to send a request.
const DESTINATION: HeaderName = HeaderName::from_static("l5d-dst-override");

/// Most bytes of a peer's headers: as much as a sidecar lets through. More than that resets the stream.
const HEADER_LIST_BYTES: u32 = 32 * 1024;

type Sender = SendRequest<Body>;
/// One attempt, waited for by every call that needs it.
type Attempt = Shared<BoxFuture<'static, Result<Sender, Arc<str>>>>;

pub(super) struct Connection {
    connector: Connector,
    uri: Uri,
    peer: Arc<str>,
    /// `host:port` of the peer, for a sidecar to read.
    destination: Option<HeaderValue>,
    state: Mutex<State>,
}

enum State {
    Idle,
    Connecting(Attempt),
    Connected(Sender),
}

impl Connection {
    pub(super) fn new(connector: Connector, uri: Uri, peer: &str) -> Self {
        let destination = connector
            .names_destinations()
            .then(|| destination(&uri))
            .flatten();
        Self {
            connector,
            uri,
            peer: Arc::from(peer),
            destination,
            state: Mutex::new(State::Idle),
        }
    }

    /// Sends a request. A connection that turns out to be closed before anything was sent is replaced, once.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Status> {
        *request.uri_mut() = self.absolute(request.uri())?;
        if let Some(destination) = &self.destination {
            request
                .headers_mut()
                .insert(DESTINATION, destination.clone());
        }
        let mut replaced = false;
        loop {
            let mut sender = self.sender().await?;
            let mut failed = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            match failed.take_message() {
                Some(unsent) if !replaced => {
                    request = unsent;
                    replaced = true;
                    self.forget();
                }
                _ => return Err(lost(&self.peer, failed.into_error())),
            }
        }
    }

    /// The sender of a connection that is open.
    async fn sender(&self) -> Result<Sender, Status> {
        let attempt = {
            let mut state = self.lock();
            match &*state {
                State::Connected(sender) if !sender.is_closed() => return Ok(sender.clone()),
                State::Connecting(attempt) => attempt.clone(),
                State::Idle | State::Connected(_) => {
                    // A task: it goes on when the call that began it is given up.
                    let attempt = tokio::spawn(connect(self.connector.clone(), self.uri.clone()));
                    let attempt = attempt
                        .map(|ended| {
                            ended.unwrap_or_else(|_| Err(Arc::from("the attempt was given up")))
                        })
                        .boxed()
                        .shared();
                    *state = State::Connecting(attempt.clone());
                    attempt
                }
            }
        };
        let result = attempt.clone().await;
        let mut state = self.lock();
        if matches!(&*state, State::Connecting(current) if current.ptr_eq(&attempt)) {
            *state = result
                .as_ref()
                .map_or(State::Idle, |sender| State::Connected(sender.clone()));
        }
        result.map_err(|error| {
            Status::unavailable(format!("{} cannot be reached: {error}", self.peer))
        })
    }

    fn forget(&self) {
        let mut state = self.lock();
        if matches!(&*state, State::Connected(_)) {
            *state = State::Idle;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request's path at this peer.
    fn absolute(&self, request: &Uri) -> Result<Uri, Status> {
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = request.path_and_query().cloned();
        Uri::from_parts(parts)
            .map_err(|error| Status::internal(format!("the path is not valid: {error}")))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.uri)
    }
}

fn destination(uri: &Uri) -> Option<HeaderValue> {
    let text = format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(80));
    HeaderValue::from_str(&text).ok()
}

async fn connect(connector: Connector, uri: Uri) -> Result<Sender, Arc<str>> {
    let attempt = async {
        let io = connector
            .connect(uri)
            .await
            .map_err(|error| Arc::from(error.to_string()))?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_header_list_size(HEADER_LIST_BYTES)
            // A peer that vanished without a word is noticed while calls wait for it.
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| Arc::from(error.to_string()))
    };
    let (sender, connection) = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(result) => result?,
        Err(_) => return Err(Arc::from("no connection within 2 s")),
    };
    // Lives as long as a sender of it does.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a peer ended");
        }
    });
    Ok(sender)
}
