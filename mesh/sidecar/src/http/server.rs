//! One HTTP connection that is served: its limits, and how it drains.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::Response;
use crate::metrics::{Counter, Labels, Registry};

/// What a connection may ask of the sidecar. Set one by one: each bounds a way to make a server work or hold memory.
pub(crate) mod limits {
    use std::time::Duration;

    /// Streams on one connection of the app's, which is the sidecar's only client there ...
    pub(crate) const APP_STREAMS: u32 = 1024;
    /// ... and on one of a peer's.
    pub(crate) const PEER_STREAMS: u32 = 512;
    /// All headers of a request, with 32 bytes for each.
    pub(crate) const HEADER_LIST_BYTES: u32 = 32 * 1024;
    /// The compression table of headers.
    pub(crate) const HEADER_TABLE_BYTES: u32 = 4096;
    /// Streams that a client reset before they were accepted (rapid reset).
    pub(crate) const PENDING_RESETS: usize = 20;
    /// Streams that were reset here for a client's errors.
    pub(crate) const ERROR_RESETS: usize = 1024;
    /// Bytes that may be under way on a stream ...
    pub(crate) const STREAM_WINDOW: u32 = 65_535;
    /// ... and on a connection, before its reader has taken them.
    pub(crate) const CONNECTION_WINDOW: u32 = 1024 * 1024;
    /// Bytes that wait to be written, for each stream.
    pub(crate) const SEND_BUFFER: usize = 64 * 1024;
    /// The largest frame.
    pub(crate) const FRAME: u32 = 16_384;
    /// How long an HTTP/1 client may take for its headers.
    pub(crate) const HEADER_READ: Duration = Duration::from_secs(10);
    /// Pings find out when a peer is gone: how often, and how long one may take.
    pub(crate) const PING: (Duration, Duration) =
        (Duration::from_secs(20), Duration::from_secs(20));
}

/// The version of HTTP on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2, known in advance.
    Http2,
}

/// Counts connections that ended because the peer broke the protocol or a limit.
#[derive(Clone, Debug)]
pub(crate) struct Violations {
    registry: Registry,
    direction: &'static str,
    total: Counter,
}

impl Violations {
    /// On this side of the sidecar.
    pub(crate) fn new(registry: &Registry, direction: &'static str) -> Self {
        let labels = Labels::new()
            .with("direction", direction)
            .with("error", "any");
        let total = registry.counter(NAME, HELP, &labels);
        Self {
            registry: registry.clone(),
            direction,
            total,
        }
    }

    fn count(&self, error: &hyper::Error) {
        self.total.increment();
        let reason = crate::error::h2_reason(error)
            .map_or_else(|| "http".to_owned(), |reason| format!("{reason:?}"));
        let labels = Labels::new()
            .with("direction", self.direction)
            .with("error", &reason);
        self.registry.counter(NAME, HELP, &labels).increment();
    }
}

const NAME: &str = "sidecar_http_connection_errors_total";
const HELP: &str = "Connections that ended in an error of HTTP's.";

/// Serves one connection until it ends, `streams` requests at one time; from `drain` on, only the requests that are under way.
pub(crate) async fn serve<I, F, Fut>(
    io: I,
    version: HttpVersion,
    streams: u32,
    drain: CancellationToken,
    violations: &Violations,
    respond: F,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response> + Send + 'static,
{
    let service = service_fn(move |request| {
        // Boxed: it holds all layers, and is moved several times until it is a task.
        let response = Box::pin(respond(request));
        async move { Ok::<_, Infallible>(response.await) }
    });
    let io = TokioIo::new(io);
    let ended = match version {
        HttpVersion::Http2 => {
            let mut connection = pin!(http2_builder(streams).serve_connection(io, service));
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = drain.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        HttpVersion::Http1 => {
            let mut connection = pin!(http1_builder().serve_connection(io, service));
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = drain.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        // A peer that goes away is no violation.
        if !error.is_incomplete_message() && !is_disconnect(&error) {
            violations.count(&error);
            tracing::debug!(error = %chain(&error), "a connection ended in an error");
        }
    }
}

fn http2_builder(streams: u32) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .header_table_size(limits::HEADER_TABLE_BYTES)
        .max_pending_accept_reset_streams(limits::PENDING_RESETS)
        .max_local_error_reset_streams(limits::ERROR_RESETS)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_frame_size(limits::FRAME)
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::PING.0)
        .keep_alive_timeout(limits::PING.1)
        // The app's own date stays; a proxy adds none.
        .auto_date_header(false);
    builder
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_headers(100)
        .max_buf_size(64 * 1024)
        .auto_date_header(false)
        .keep_alive(true);
    builder
}

fn is_disconnect(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
            return matches!(
                io.kind(),
                BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof
            );
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>()
            && let Some(io) = h2.get_io()
        {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
            return matches!(
                io.kind(),
                BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof
            );
        }
        cause = error.source();
    }
    false
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Which version a client speaks, from its first bytes: HTTP/2's preface starts with a method that HTTP/1 lacks.
///
/// # Errors
/// If the client says nothing in time, or goes away.
pub(crate) async fn detect(
    stream: &tokio::net::TcpStream,
    within: Duration,
) -> std::io::Result<HttpVersion> {
    const PREFACE: &[u8] = b"PRI";
    let peek = async {
        let mut seen = 0;
        let mut bytes = [0; PREFACE.len()];
        loop {
            let length = stream.peek(&mut bytes).await?;
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if bytes[..length] != PREFACE[..length] {
                return Ok(HttpVersion::Http1);
            }
            if length == PREFACE.len() {
                return Ok(HttpVersion::Http2);
            }
            // A preface in pieces: peeking again returns at once, so give the rest a moment to come.
            if length == seen {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            seen = length;
        }
    };
    tokio::time::timeout(within, peek)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}
