//! The app behind the sidecar, on one of its ports, as one peer reaches it: HTTP/2 on one connection for each thread, or
//! HTTP/1. Peers share no connection: how many streams there are on one is the app's to say, and a peer that takes all
//! of them, or does not read what comes, is only in its own way.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Version;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::ProxyError;
use crate::http::client::{Connect, H1, H2, SendError};
use crate::http::{Request, Response, ResponseBody, Serve, orig_proto};
use crate::io::{self, Io, TcpCounts};
use crate::metrics::{Labels, Registry};
use crate::policy::outbound::Backoff;

/// How long a connection to the app may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// Shorter than towards peers: an app that comes back on this machine should be found soon.
const CONNECT_BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(1),
    jitter: 0.1,
};
/// How long requests wait for the app: for a connection to it, and for a stream there.
const FAIL_FAST: Duration = Duration::from_secs(1);

/// The app on one of its ports, for one peer.
#[derive(Debug)]
pub(crate) struct App {
    address: SocketAddr,
    connect: Connect,
    counts: TcpCounts,
    changed: Arc<Notify>,
    h2: OnceLock<H2>,
    h1: H1,
}

impl App {
    /// Connects when first asked.
    pub(super) fn new(address: SocketAddr, counts: TcpCounts) -> Self {
        let for_http = counts.clone();
        let connect = Connect::new(move || {
            let counts = for_http.clone();
            async move { dial(address, counts).await }
        });
        Self {
            address,
            h1: H1::new(connect.clone()),
            connect,
            counts,
            changed: Arc::default(),
            h2: OnceLock::new(),
        }
    }

    /// What is counted of all connections to the app.
    pub(super) fn counts(registry: &Registry) -> TcpCounts {
        let labels = Labels::new()
            .with("direction", "inbound")
            .with("peer", "dst")
            .with("tls", "no_identity")
            .with("no_tls_reason", "loopback");
        TcpCounts::new(registry, &labels)
    }

    /// A connection for bytes.
    pub(super) async fn connect_bytes(&self) -> std::io::Result<Io> {
        dial(self.address, self.counts.clone()).await
    }

    async fn http2(&self, mut request: Request) -> Result<Response, ProxyError> {
        let connection = self.h2.get_or_init(|| {
            let name = self.address.to_string().into();
            H2::start(
                self.connect.clone(),
                CONNECT_BACKOFF,
                None,
                name,
                Arc::clone(&self.changed),
            )
        });
        let mut limit = None;
        loop {
            let changed = self.changed.notified();
            match connection.send_within(FAIL_FAST, request).await {
                Ok(response) => return Ok(ResponseBody::incoming(response)),
                Err(SendError::Failed(error)) => return Err(error),
                Err(SendError::NotSent(back)) => request = back,
            }
            let limit = *limit.get_or_insert_with(|| Instant::now() + FAIL_FAST);
            if connection.is_ready() && Instant::now() < limit {
                tokio::task::yield_now().await;
            } else if tokio::time::timeout_at(limit, changed).await.is_err() {
                return Err(ProxyError::FailFast(
                    format!("the app on {}", self.address).into(),
                ));
            }
        }
    }

    async fn http1(&self, request: Request) -> Result<Response, ProxyError> {
        match self.h1.send(request).await {
            Ok(response) => Ok(ResponseBody::incoming(response)),
            Err(SendError::Failed(error)) => Err(error),
            Err(SendError::NotSent(_)) => Err(ProxyError::transport(
                "sending the request",
                "the app closed the connection",
            )),
        }
    }
}

async fn dial(address: SocketAddr, counts: TcpCounts) -> std::io::Result<Io> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, io::connect(None, address))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
    Ok(Io::plain(stream, counts))
}

impl Serve for Arc<App> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        let upgraded = orig_proto::downgrade(&mut request);
        if request.version() == Version::HTTP_2 {
            return self.http2(request).await;
        }
        orig_proto::to_http1(&mut request, false);
        let mut response = Box::pin(self.http1(request)).await?;
        if upgraded {
            orig_proto::mark(&mut response);
        }
        Ok(response)
    }
}
