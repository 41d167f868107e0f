//! Byte streams: TCP and TLS in one type, counted; and the socket's own settings.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsStream;

use crate::metrics::{Counter, Gauge, Labels, Registry};

/// A connection. Flat, so that each read is one branch away from the socket.
#[derive(Debug)]
pub(crate) struct Io {
    kind: IoKind,
    counts: TcpCounts,
    open: Gauge,
    close: Counter,
}

#[derive(Debug)]
enum IoKind {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The counters of connections of one kind.
#[derive(Clone, Debug)]
pub(crate) struct TcpCounts {
    read: Counter,
    write: Counter,
    opened: Counter,
    closed: Counter,
    open: Gauge,
}

impl TcpCounts {
    /// Those with these labels.
    pub(crate) fn new(registry: &Registry, labels: &Labels) -> Self {
        Self {
            read: registry.counter("tcp_read_bytes_total", "Bytes that were read.", labels),
            write: registry.counter("tcp_write_bytes_total", "Bytes that were written.", labels),
            opened: registry.counter("tcp_open_total", "Connections that were opened.", labels),
            // How it was closed is not told apart.
            closed: registry.counter(
                "tcp_close_total",
                "Connections that were closed.",
                &labels.clone().with("errno", ""),
            ),
            open: registry.gauge("tcp_open_connections", "Connections that are open.", labels),
        }
    }
}

impl Io {
    /// A connection in plain text.
    pub(crate) fn plain(stream: TcpStream, counts: TcpCounts) -> Self {
        Self::new(IoKind::Plain(stream), counts)
    }

    /// A connection in TLS.
    pub(crate) fn tls(stream: impl Into<TlsStream<TcpStream>>, counts: TcpCounts) -> Self {
        Self::new(IoKind::Tls(Box::new(stream.into())), counts)
    }

    fn new(kind: IoKind, counts: TcpCounts) -> Self {
        counts.opened.increment();
        counts.open.add(1);
        Self {
            kind,
            open: counts.open.clone(),
            close: counts.closed.clone(),
            counts,
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.open.add(-1);
        self.close.increment();
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.kind {
            IoKind::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            IoKind::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        self.counts.read.add((buf.filled().len() - before) as u64);
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.kind {
            IoKind::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            IoKind::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        if let Poll::Ready(Ok(written)) = polled {
            self.counts.write.add(written as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            IoKind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            IoKind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            IoKind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            IoKind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.kind {
            IoKind::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            IoKind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        if let Poll::Ready(Ok(written)) = polled {
            self.counts.write.add(written as u64);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            IoKind::Plain(stream) => stream.is_write_vectored(),
            IoKind::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

/// Connects from `source` where the families agree: on a machine that all pods share, the source is what tells them
/// apart.
pub(crate) async fn connect(source: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) =
        source.filter(|source| source.is_ipv4() == target.is_ipv4() && !source.is_unspecified())
    {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    // Without it the last segment of each message waits for an acknowledgement: 40 ms.
    socket.set_nodelay(true)?;
    socket.connect(target).await
}
