//! HTTP clients: one HTTP/2 connection that is kept up, or a handful of HTTP/1 connections made as needed.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::server::limits;
use super::{Request, RequestBody};
use crate::control::backoff::Retry;
use crate::error::ProxyError;
use crate::io::Io;
use crate::policy::outbound::Backoff;

/// Connection attempts, each within its own time limit.
pub(crate) type Connecting = Pin<Box<dyn Future<Output = std::io::Result<Io>> + Send>>;

/// How connections are made.
#[derive(Clone)]
pub(crate) struct Connect(Arc<dyn Fn() -> Connecting + Send + Sync>);

impl Connect {
    /// From a function.
    pub(crate) fn new<Fut>(connect: impl Fn() -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = std::io::Result<Io>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(connect())))
    }

    async fn call(&self) -> std::io::Result<Io> {
        (self.0)().await
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connect")
    }
}

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum SendError {
    /// It never left: it may go elsewhere.
    NotSent(Request),
    /// It failed.
    Failed(ProxyError),
}

/// An HTTP/2 connection that is kept up: made at once, and again whenever it ends.
#[derive(Debug)]
pub(crate) struct H2 {
    sender: watch::Receiver<Option<http2::SendRequest<RequestBody>>>,
    _end: DropGuard,
}

impl H2 {
    /// Starts to connect. `changed` is told whenever the connection comes or goes.
    pub(crate) fn start(
        connect: Connect,
        backoff: Backoff,
        keep_alive: Option<(Duration, Duration)>,
        name: Arc<str>,
        changed: Arc<Notify>,
    ) -> Self {
        let (sender, receiver) = watch::channel(None);
        let end = CancellationToken::new();
        let stopped = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = keep_up(connect, backoff, keep_alive, &name, &sender, &changed) => {}
            }
        });
        Self {
            sender: receiver,
            _end: end.drop_guard(),
        }
    }

    /// Whether requests can be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        self.sender
            .borrow()
            .as_ref()
            .is_some_and(|sender| !sender.is_closed())
    }

    /// Sends a request.
    pub(crate) async fn send(
        &self,
        request: Request,
    ) -> Result<http::Response<Incoming>, SendError> {
        let sender = self.sender.borrow().clone();
        let Some(mut sender) = sender else {
            return Err(SendError::NotSent(request));
        };
        match sender.try_send_request(*request).await {
            Ok(response) => Ok(response),
            Err(mut error) => match error.take_message() {
                Some(request) => Err(SendError::NotSent(Box::new(request))),
                None => Err(SendError::Failed(ProxyError::transport(
                    "sending the request",
                    error.into_error(),
                ))),
            },
        }
    }
}

/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_millis(100);

async fn keep_up(
    connect: Connect,
    backoff: Backoff,
    keep_alive: Option<(Duration, Duration)>,
    name: &str,
    sender: &watch::Sender<Option<http2::SendRequest<RequestBody>>>,
    changed: &Notify,
) {
    let mut retry = Retry::with(backoff);
    loop {
        let error = match connect.call().await {
            Ok(io) => match http2_builder(keep_alive).handshake(TokioIo::new(io)).await {
                Ok((send, connection)) => {
                    sender.send_replace(Some(send));
                    changed.notify_waiters();
                    let since = Instant::now();
                    let ended = connection.await;
                    sender.send_replace(None);
                    changed.notify_waiters();
                    // A peer that takes connections and drops them at once is not spun on.
                    let lasted = since.elapsed() > LASTED;
                    if lasted {
                        retry.reset();
                    }
                    match ended {
                        Ok(()) if lasted => {
                            tracing::debug!(endpoint = name, "a connection was closed");
                            continue;
                        }
                        Ok(()) => "it was closed at once".to_owned(),
                        Err(error) => super::server::chain(&error),
                    }
                }
                Err(error) => super::server::chain(&error),
            },
            Err(error) => super::server::chain(&error),
        };
        let pause = retry.next();
        tracing::warn!(endpoint = name, %error, retry_ms = pause.as_millis() as u64, "Failed to connect");
        tokio::time::sleep(pause).await;
    }
}

fn http2_builder(keep_alive: Option<(Duration, Duration)>) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .max_frame_size(limits::FRAME)
        .max_send_buf_size(limits::SEND_BUFFER);
    if let Some((interval, timeout)) = keep_alive {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true);
    }
    builder
}

/// HTTP/1 connections, made as needed and kept for a while.
#[derive(Debug)]
pub(crate) struct H1 {
    connect: Connect,
    idle: Arc<Mutex<Vec<http1::SendRequest<RequestBody>>>>,
}

/// Idle connections that are kept.
const MAX_IDLE: usize = 16;

impl H1 {
    /// None yet.
    pub(crate) fn new(connect: Connect) -> Self {
        Self {
            connect,
            idle: Arc::default(),
        }
    }

    /// Sends a request on an idle connection, or a new one.
    pub(crate) async fn send(
        &self,
        mut request: Request,
    ) -> Result<http::Response<Incoming>, SendError> {
        loop {
            let kept = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.open().await.map_err(|error| {
                    SendError::Failed(ProxyError::transport("connecting", error))
                })?,
            };
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(*request).await {
                Ok(response) => {
                    self.give_back(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // The connection had ended since: the request goes on another.
                    Some(back) if !fresh => *request = back,
                    Some(back) => return Err(SendError::NotSent(Box::new(back))),
                    None => {
                        return Err(SendError::Failed(ProxyError::transport(
                            "sending the request",
                            error.into_error(),
                        )));
                    }
                },
            }
        }
    }

    async fn open(&self) -> Result<http1::SendRequest<RequestBody>, crate::error::BoxError> {
        let io = self.connect.call().await?;
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %super::server::chain(&error), "an HTTP/1 connection ended in an error");
            }
        });
        Ok(sender)
    }

    /// Keeps the connection once its response has been read.
    fn give_back(&self, mut sender: http1::SendRequest<RequestBody>) {
        let idle = Arc::clone(&self.idle);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < MAX_IDLE {
                    idle.push(sender);
                }
            }
        });
    }
}
