//! Accepting and serving connections, and draining them with a hard deadline.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{Builder, Connection};
use hyper_util::service::TowerToHyperService;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{BoxError, Service, ServiceExt as _};

use super::guests::{Guests, below_open_files};
use crate::env::BoxIo;
use crate::listener::Listener;

/// Which HTTP versions are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge: gRPC.
    Http2,
    /// HTTP/1.1 and HTTP/2, told apart by the preface.
    Any,
}

/// A listener and how its connections are served.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Where connections come from.
    pub listener: Listener,
    /// Which HTTP versions are spoken.
    pub protocol: Protocol,
    /// HTTP/2 streams that one connection may open at a time.
    pub max_streams: usize,
    /// Connections that may be open at a time.
    pub max_connections: usize,
    /// Connections of one address that may be open at a time.
    pub max_per_address: usize,
}

/// Longest that a connection may take to its first request where strangers connect.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Troubles with accepting are logged once in so long.
const LOG_EVERY: Duration = Duration::from_secs(10);

impl Connections {
    /// Serves until `drain` is done, then stops accepting, tells every connection to finish and waits for them for at
    /// most `deadline`; what is left is cut off. `draining` runs beside that wait.
    pub async fn serve<M, S, B>(
        self,
        make: M,
        drain: impl Future<Output = ()>,
        draining: impl Future<Output = ()>,
        deadline: Duration,
    ) where
        M: Fn(SocketAddr) -> S,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (finish, cut, tracker) = (
            CancellationToken::new(),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let builder = self.builder();
        let guests = Guests::new(below_open_files(self.max_connections), self.max_per_address);
        let mut troubles = Troubles::default();
        let mut drain = std::pin::pin!(drain);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut drain => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((io, peer)) => {
                    let Some(guest) = guests.admit(peer.ip()) else {
                        troubles.note(&"there are as many as there may be");
                        continue;
                    };
                    let first = Arc::new(AtomicBool::new(false));
                    let seen = Arc::clone(&first);
                    let service = make(peer).map_request(move |request| {
                        seen.store(true, Ordering::Relaxed);
                        request
                    });
                    let service = TowerToHyperService::new(service);
                    let serving = Box::pin(
                        builder
                            .serve_connection(TokioIo::new(io), service)
                            .into_owned(),
                    );
                    let first = (self.protocol == Protocol::Any).then_some(first);
                    let serving = connection(serving, finish.clone(), cut.clone());
                    tracker.spawn(async move {
                        let _guest = guest;
                        unless_silent(serving, first).await;
                    });
                }
                // Out of file descriptors, or a connection that was gone before it was taken: the listener lives on.
                Err(error) => {
                    troubles.note(&error);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        finish.cancel();
        tracker.close();
        let mut draining = std::pin::pin!(draining);
        let mut draining_done = false;
        let waiting = tokio::time::sleep(deadline);
        let mut waiting = std::pin::pin!(waiting);
        loop {
            tokio::select! {
                biased;
                () = tracker.wait() => return,
                () = &mut draining, if !draining_done => draining_done = true,
                () = &mut waiting => break,
            }
        }
        tracing::warn!(
            connections = tracker.len(),
            "cutting off connections that did not finish in time"
        );
        cut.cancel();
        tracker.wait().await;
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            // A peer that vanished without a word gives its places back.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            // Twice the limit: above the limit a caller is told so, it does not wait for a stream.
            .max_concurrent_streams(
                u32::try_from(self.max_streams.saturating_mul(2)).unwrap_or(u32::MAX),
            );
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10));
        match self.protocol {
            Protocol::Http2 => {
                // Peers with short deadlines cancel many calls at once: that is no attack among services.
                builder.http2().max_pending_accept_reset_streams(Some(1024));
                builder.http2_only()
            }
            Protocol::Any => builder,
        }
    }
}

/// A connection being served; as an object it keeps hyper's lifetimes out of the async code.
trait Serving: Future<Output = Result<(), BoxError>> + Send {
    /// Ends it when the requests under way are answered.
    fn finish(self: Pin<&mut Self>);
}

impl<S, B> Serving for Connection<'static, TokioIo<BoxIo>, TowerToHyperService<S>, TokioExecutor>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Connections that could not be accepted, logged together: a flood of them must not flood the log.
#[derive(Default)]
struct Troubles {
    count: u64,
    logged: Option<Instant>,
}

impl Troubles {
    fn note(&mut self, error: &dyn std::fmt::Display) {
        self.count += 1;
        if self
            .logged
            .is_none_or(|logged| logged.elapsed() >= LOG_EVERY)
        {
            tracing::warn!(%error, count = self.count, "connections could not be accepted");
            (self.count, self.logged) = (0, Some(Instant::now()));
        }
    }
}

/// Serves, but gives up when the first request does not come in time.
async fn unless_silent(serving: impl Future<Output = ()>, first: Option<Arc<AtomicBool>>) {
    let mut serving = std::pin::pin!(serving);
    let Some(first) = first else {
        return serving.await;
    };
    tokio::select! {
        biased;
        () = &mut serving => return,
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    if first.load(Ordering::Relaxed) {
        serving.await;
    }
}

async fn connection(
    mut serving: Pin<Box<dyn Serving>>,
    finish: CancellationToken,
    cut: CancellationToken,
) {
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => Some(ended),
        () = finish.cancelled() => {
            serving.as_mut().finish();
            cut.run_until_cancelled(serving).await
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}
