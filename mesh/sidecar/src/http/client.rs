//! HTTP clients: one HTTP/2 connection that is kept up, or a handful of HTTP/1 connections made as needed.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::server::limits;
use super::stream_queue::StreamQueue;
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
    open: watch::Receiver<Option<Open>>,
    _end: DropGuard,
}

/// A connection that is open, and the requests that wait for a stream of it.
#[derive(Clone, Debug)]
struct Open {
    sender: http2::SendRequest<RequestBody>,
    queue: Arc<StreamQueue>,
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
        let (open, receiver) = watch::channel(None);
        let end = CancellationToken::new();
        let stopped = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = keep_up(connect, backoff, keep_alive, &name, &open, &changed) => {}
            }
        });
        Self {
            open: receiver,
            _end: end.drop_guard(),
        }
    }

    /// Whether requests can be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        self.open
            .borrow()
            .as_ref()
            .is_some_and(|open| !open.sender.is_closed() && !open.queue.is_full())
    }

    /// Sends a request that waits no longer than `limit` for a stream of its own: how many there may be at one time
    /// is the peer's to say, and how long they last.
    pub(crate) async fn send_within(
        &self,
        limit: Duration,
        mut request: Request,
    ) -> Result<http::Response<Incoming>, SendError> {
        const SHED: SendError = SendError::Failed(ProxyError::LoadShed("HTTP/2 streams"));
        let open = self.open.borrow().clone();
        let Some(Open { mut sender, queue }) = open else {
            return Err(SendError::NotSent(request));
        };
        if queue.is_full() {
            return Err(SHED);
        }
        let ticket = request.body_mut().enter(&queue);
        // It is handed over here, in the order of the tickets.
        let mut sent = pin!(sender.try_send_request(*request));
        let sent = match tokio::time::timeout(limit, &mut sent).await {
            Ok(sent) => sent,
            Err(_) if queue.holds(ticket) => return Err(SHED),
            Err(_) => sent.await,
        };
        sent.map_err(|mut error| match error.take_message() {
            Some(mut request) => {
                request.body_mut().leave();
                SendError::NotSent(Box::new(request))
            }
            None => SendError::Failed(ProxyError::transport(
                "sending the request",
                error.into_error(),
            )),
        })
    }
}

/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_millis(100);

async fn keep_up(
    connect: Connect,
    backoff: Backoff,
    keep_alive: Option<(Duration, Duration)>,
    name: &str,
    open: &watch::Sender<Option<Open>>,
    changed: &Notify,
) {
    let mut retry = Retry::with(backoff);
    loop {
        let error = match connect.call().await {
            Ok(io) => match http2_builder(keep_alive).handshake(TokioIo::new(io)).await {
                Ok((sender, connection)) => {
                    let queue = Arc::default();
                    open.send_replace(Some(Open { sender, queue }));
                    changed.notify_waiters();
                    let since = Instant::now();
                    let ended = connection.await;
                    open.send_replace(None);
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
        if let Some(kept) = self.kept() {
            match self.send_on(kept, request).await {
                // It had ended since, which says nothing of a new one.
                Err(SendError::NotSent(back)) => request = back,
                sent => return sent,
            }
        }
        let fresh = self
            .open()
            .await
            .map_err(|error| SendError::Failed(ProxyError::transport("connecting", error)))?;
        match self.send_on(fresh, request).await {
            // The next one would end the same way, and the one after it.
            Err(SendError::NotSent(_)) => Err(SendError::Failed(ProxyError::transport(
                "sending the request",
                "the connection was closed at once",
            ))),
            sent => sent,
        }
    }

    /// An idle connection. Those that ended meanwhile are dropped.
    fn kept(&self) -> Option<http1::SendRequest<RequestBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|sender| !sender.is_closed())
    }

    async fn send_on(
        &self,
        mut sender: http1::SendRequest<RequestBody>,
        request: Request,
    ) -> Result<http::Response<Incoming>, SendError> {
        if sender.ready().await.is_err() {
            return Err(SendError::NotSent(request));
        }
        match sender.try_send_request(*request).await {
            Ok(response) => {
                self.give_back(sender);
                Ok(response)
            }
            Err(mut error) => Err(match error.take_message() {
                Some(back) => SendError::NotSent(Box::new(back)),
                None => SendError::Failed(ProxyError::transport(
                    "sending the request",
                    error.into_error(),
                )),
            }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::service::service_fn;
    use tokio::net::{TcpListener, TcpStream};

    use crate::http::Response;
    use crate::io::TcpCounts;
    use crate::metrics::{Labels, Registry};

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn connect(address: SocketAddr) -> Connect {
        let counts = TcpCounts::new(&Registry::default(), &Labels::new());
        Connect::new(move || {
            let counts = counts.clone();
            async move { Ok(Io::plain(TcpStream::connect(address).await?, counts)) }
        })
    }

    fn request() -> Request {
        let request = http::Request::get("http://app/").body(RequestBody::empty());
        Box::new(request.unwrap())
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_at_once_is_not_made_again() {
        let (listener, address) = listen().await;
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            loop {
                drop(listener.accept().await.unwrap());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let pool = H1::new(connect(address));
        for requests in 1..=20 {
            let sent = pool.send(request());
            let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
            assert!(matches!(sent, Ok(Err(SendError::Failed(_)))), "{sent:?}");
            assert!(accepted.load(Ordering::Relaxed) <= requests);
        }
    }

    #[tokio::test]
    async fn requests_do_not_wait_for_a_stream_for_good() {
        let (listener, address) = listen().await;
        let called = Arc::new(Notify::new());
        let calls = Arc::clone(&called);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let never = service_fn(move |_| {
                calls.notify_one();
                std::future::pending::<Result<Response, Infallible>>()
            });
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(1)
                .serve_connection(TokioIo::new(stream), never)
                .await
        });
        let backoff = Backoff {
            min: Duration::from_millis(1),
            max: Duration::from_millis(1),
            jitter: 0.0,
        };
        let changed = Arc::new(Notify::new());
        let connected = changed.notified();
        let connection = H2::start(
            connect(address),
            backoff,
            None,
            "app".into(),
            Arc::clone(&changed),
        );
        let connection = Arc::new(connection);
        connected.await;
        let limit = Duration::from_millis(100);
        let send = || {
            let connection = Arc::clone(&connection);
            tokio::spawn(async move { connection.send_within(limit, request()).await })
        };
        let first = send();
        called.notified().await;
        // One of them holds the place of the stream to come, the others wait behind it.
        for sent in [send(), send(), send()] {
            let sent = sent.await.unwrap();
            assert!(
                matches!(sent, Err(SendError::Failed(ProxyError::LoadShed(_)))),
                "{sent:?}"
            );
        }
        assert!(
            !first.is_finished(),
            "an answer may take as long as it likes"
        );
    }
}
