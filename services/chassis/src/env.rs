//! Everything nondeterministic, passed in: the clock, randomness and how a connection is made.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Uri;
use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The time of day. Waiting uses `tokio::time`, never this.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> SystemTime;

    /// Now, in milliseconds since the Unix epoch.
    fn now_millis(&self) -> i64 {
        let since = self
            .now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// A source of random bits.
pub trait Entropy: Send + Sync {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// A byte stream between two processes.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A boxed [`Io`].
pub type BoxIo = Box<dyn Io>;

/// The future of a connection attempt.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<BoxIo>> + Send>>;

/// How a connection to a peer is made: TCP with TCP_NODELAY, through the process's own sidecar, or whatever a test or a
/// simulation puts here.
#[derive(Clone)]
pub struct Connector {
    connect: Arc<dyn Fn(Uri) -> Connecting + Send + Sync>,
    names_destinations: bool,
}

impl Connector {
    /// A connector from a function.
    pub fn new<F, Fut>(connect: F) -> Self
    where
        F: Fn(Uri) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<BoxIo>> + Send + 'static,
    {
        Self {
            connect: Arc::new(move |uri| Box::pin(connect(uri))),
            names_destinations: false,
        }
    }

    /// TCP with TCP_NODELAY (without it p99 is 40 ms).
    pub fn tcp() -> Self {
        Self::new(|uri: Uri| async move {
            let host = uri.host().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "the address has no host")
            })?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }

    /// Every connection to the sidecar at `outbound`, whatever the peer: the sidecar finds the peer by the name that each
    /// request bears.
    pub fn sidecar(outbound: SocketAddr) -> Self {
        let sidecar: Option<Uri> = format!("http://{outbound}").parse().ok();
        let connect = move |_peer| {
            let sidecar = sidecar.clone();
            async move {
                let uri = sidecar.ok_or(io::ErrorKind::InvalidInput)?;
                let attempt = Self::tcp().connect(uri).await;
                attempt.map_err(|error| {
                    let text = format!("its own sidecar at {outbound} does not answer: {error}");
                    io::Error::new(error.kind(), text)
                })
            }
        };
        Self {
            names_destinations: true,
            ..Self::new(connect)
        }
    }

    /// Connects to the host and port of `uri`.
    pub fn connect(&self, uri: Uri) -> Connecting {
        (self.connect)(uri)
    }

    /// Whether each request must say where it is to go (`l5d-dst-override`), because its connection does not.
    pub(crate) fn names_destinations(&self) -> bool {
        self.names_destinations
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

/// What a process is given instead of reaching for the operating system.
#[derive(Clone)]
pub struct Env {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// How connections to peers are made.
    pub connector: Connector,
}

impl Env {
    /// The real clock, the operating system's randomness, TCP.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            connector: Connector::tcp(),
        }
    }

    /// The same, with every peer reached through the process's own sidecar, where there is one.
    #[must_use]
    pub fn through(mut self, outbound: Option<SocketAddr>) -> Self {
        if let Some(outbound) = outbound {
            self.connector = Connector::sidecar(outbound);
        }
        self
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A generator per thread, seeded by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn next_u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}

/// A clock that stands still until it is told to move: for tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows these Unix milliseconds.
    pub fn at(millis: i64) -> Self {
        Self(AtomicI64::new(millis))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(
            i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            Ordering::Relaxed,
        );
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        let since = u64::try_from(self.now_millis()).unwrap_or(0);
        UNIX_EPOCH + Duration::from_millis(since)
    }

    fn now_millis(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Random bits that are the same for the same seed: for tests and simulations, never for secrets.
#[derive(Debug)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for SeededEntropy {
    /// SplitMix64.
    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_do_as_they_are_told() {
        let clock = ManualClock::at(1_000);
        clock.advance(Duration::from_millis(500));
        assert_eq!(clock.now_millis(), 1_500);
        assert_eq!(clock.now(), UNIX_EPOCH + Duration::from_millis(1_500));
        let draw = |seed| {
            let entropy = SeededEntropy::new(seed);
            [entropy.next_u64(), entropy.next_u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_ne!(draw(7)[0], draw(7)[1]);
    }

    #[test]
    fn the_system_clock_tells_unix_time() {
        assert!(SystemClock.now_millis() > 1_700_000_000_000);
    }
}
