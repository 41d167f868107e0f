//! Where connections come from: a TCP socket, or whatever a simulation puts here.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::env::BoxIo;

type Accepting = Pin<Box<dyn Future<Output = io::Result<(BoxIo, SocketAddr)>> + Send>>;

/// A bound listener.
#[derive(Clone)]
pub struct Listener {
    address: SocketAddr,
    accept: Arc<dyn Fn() -> Accepting + Send + Sync>,
}

impl Listener {
    /// A listener from a function that waits for the next connection.
    pub fn new<F, Fut>(address: SocketAddr, accept: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<(BoxIo, SocketAddr)>> + Send + 'static,
    {
        Self {
            address,
            accept: Arc::new(move || Box::pin(accept())),
        }
    }

    /// Binds a TCP address; port 0 takes a free port. Needs a tokio runtime.
    ///
    /// # Errors
    /// The operating system's, with the address in its text.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let hint = if error.kind() == io::ErrorKind::AddrInUse {
                " (something else listens there: choose another address, or port 0)"
            } else {
                ""
            };
            io::Error::new(
                error.kind(),
                format!("cannot listen on {address}: {error}{hint}"),
            )
        };
        let socket = std::net::TcpListener::bind(address).map_err(explain)?;
        socket.set_nonblocking(true).map_err(explain)?;
        Self::tcp(TcpListener::from_std(socket).map_err(explain)?)
    }

    /// A bound TCP socket; its connections have TCP_NODELAY.
    ///
    /// # Errors
    /// If the socket has no address.
    pub fn tcp(socket: TcpListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let socket = Arc::new(socket);
        Ok(Self::new(address, move || {
            let socket = Arc::clone(&socket);
            async move {
                let (stream, peer) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream) as BoxIo, peer))
            }
        }))
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> Accepting {
        (self.accept)()
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}
