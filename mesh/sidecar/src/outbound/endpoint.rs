//! One endpoint of a destination, as one thread reaches it: its connection, load, breaker and metrics.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use rand::RngExt as _;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::Shared;
use super::breaker::Breaker;
use super::load::Load;
use crate::control::endpoints::EndpointSpec;
use crate::http::client::{Connect, H1, H2, SendError};
use crate::http::observe::{End, Observe};
use crate::http::request_body::Progress;
use crate::http::{Request, Response, ResponseBody, orig_proto};
use crate::io::{self, Io, TcpCounts};
use crate::metrics::Labels;
use crate::metrics::responses::HttpMetrics;
use crate::policy::outbound::Backoff;
use crate::transport_header::TransportHeader;

/// How long a connection to a peer may take, with its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pauses between attempts to connect.
const CONNECT_BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(60),
    jitter: 0.1,
};

/// One endpoint, as one thread reaches it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// How it is reached.
    pub(crate) spec: Arc<EndpointSpec>,
    /// How loaded it is.
    pub(crate) load: Load,
    /// Whether it works.
    pub(crate) breaker: Option<Arc<Breaker>>,
    /// How long a request waits for a stream.
    failfast: Duration,
    transport: Transport,
    metrics: HttpMetrics,
}

#[derive(Debug)]
enum Transport {
    H2(H2),
    H1(H1),
    /// Its connection is gone whenever a request is to be sent.
    #[cfg(test)]
    Gone,
}

/// What an endpoint gets from its balancer.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    /// The destination's name.
    pub(crate) authority: &'a str,
    /// Requests for it are HTTP/2.
    pub(crate) http2: bool,
    /// What it is taken to need before its first answer.
    pub(crate) default_rtt: Duration,
    /// How fast measurements are forgotten.
    pub(crate) decay: Duration,
    /// How long a request waits for it.
    pub(crate) failfast: Duration,
    /// Its breaker.
    pub(crate) breaker: Option<Arc<Breaker>>,
    /// Told when it can be used, or not any more.
    pub(crate) changed: Arc<Notify>,
}

impl Endpoint {
    /// Starts to connect, if it speaks HTTP/2.
    pub(crate) fn new(
        shared: &Shared,
        address: SocketAddr,
        spec: Arc<EndpointSpec>,
        settings: Settings<'_>,
    ) -> Self {
        let local = shared.is_self(address.ip(), spec.inbound_port);
        let tls = if local { None } else { spec.identity.clone() };
        let labels = Labels::new()
            .with("authority", settings.authority)
            .with_target(address);
        let labels = match &tls {
            Some(identity) => labels.with("tls", "true").with("server_id", identity),
            None => labels.with("tls", "no_identity").with(
                "no_tls_reason",
                if local {
                    "loopback"
                } else {
                    "not_provided_by_service_discovery"
                },
            ),
        };
        let labels = labels.and(&spec.labels);
        let outbound = Labels::new().with("direction", "outbound");
        let tcp = outbound.clone().with("peer", "dst").and(&labels);
        let counts = TcpCounts::new(&shared.registry, &tcp);
        let connect = connector(shared, address, &spec, tls, counts);
        let transport = if settings.http2 || spec.h2 {
            let name = address.to_string().into();
            Transport::H2(H2::start(
                connect,
                CONNECT_BACKOFF,
                spec.keep_alive,
                name,
                settings.changed,
            ))
        } else {
            Transport::H1(H1::new(connect))
        };
        Self {
            load: Load::new(settings.default_rtt, settings.decay, Instant::now()),
            breaker: settings.breaker,
            failfast: settings.failfast,
            transport,
            metrics: HttpMetrics::new(&shared.registry, &outbound.and(&labels)),
            spec,
        }
    }

    /// One that looks ready, and sends nothing.
    #[cfg(test)]
    pub(crate) fn gone(shared: &Shared) -> Self {
        let (rtt, decay) = (Duration::from_millis(30), Duration::from_secs(10));
        Self {
            load: Load::new(rtt, decay, Instant::now()),
            breaker: None,
            failfast: Duration::ZERO,
            transport: Transport::Gone,
            metrics: HttpMetrics::new(&shared.registry, &Labels::new()),
            spec: Arc::default(),
        }
    }

    /// Whether a request can be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.transport {
            Transport::H2(connection) => connection.is_ready(),
            Transport::H1(_) => true,
            #[cfg(test)]
            Transport::Gone => true,
        }
    }

    /// Sends a request; `probe` if it is the breaker's.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Request,
        probe: bool,
    ) -> Result<Response, SendError> {
        let progress = request.body().progress().map(Arc::clone);
        let mut following = Box::new(Following::new(Arc::clone(self), probe, progress));
        let version = request.version();
        let sent = match &self.transport {
            Transport::H2(connection) => {
                orig_proto::upgrade(&mut request);
                connection.send_within(self.failfast, request).await
            }
            Transport::H1(pool) => {
                orig_proto::to_http1(&mut request, false);
                Box::pin(pool.send(request)).await
            }
            #[cfg(test)]
            Transport::Gone => Err(SendError::NotSent(request)),
        };
        match sent {
            Ok(response) => {
                self.metrics.requests.increment();
                let mut response = ResponseBody::incoming(response);
                orig_proto::restore(&mut response, version);
                response.body_mut().observe(following);
                Ok(response)
            }
            Err(SendError::NotSent(mut request)) => {
                if version <= Version::HTTP_11 {
                    // As it came, for the endpoint that gets it next.
                    orig_proto::downgrade(&mut request);
                }
                Err(SendError::NotSent(request))
            }
            Err(SendError::Failed(error)) => {
                self.metrics.requests.increment();
                let end = End::of_error(&error);
                following.end(&end, Instant::now());
                Err(SendError::Failed(error))
            }
        }
    }
}

/// Follows one request at an endpoint, for its load, breaker and metrics.
struct Following {
    endpoint: Arc<Endpoint>,
    since: Instant,
    probe: bool,
    /// Says whether a timeout ended it.
    progress: Option<Arc<Progress>>,
    /// Its response has begun: it does not count as load any more.
    begun: bool,
    over: bool,
}

impl Following {
    fn new(endpoint: Arc<Endpoint>, probe: bool, progress: Option<Arc<Progress>>) -> Self {
        endpoint.load.begin();
        Self {
            endpoint,
            since: Instant::now(),
            probe,
            progress,
            begun: false,
            over: false,
        }
    }

    fn begin(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.begun, true) {
            self.endpoint.load.end(now.duration_since(self.since), now);
        }
    }

    fn record(&mut self, failed: Option<bool>, now: Instant) {
        self.over = true;
        if let Some(breaker) = &self.endpoint.breaker {
            breaker.record(failed, self.probe, now, rand::rng().random());
        }
    }
}

impl Observe for Following {
    fn data(&mut self, _len: usize) {
        if !self.begun {
            self.begin(Instant::now());
        }
    }

    fn end(&mut self, end: &End, now: Instant) {
        self.begin(now);
        self.record((!end.cancelled).then(|| end.is_failure()), now);
        self.endpoint.metrics.response(end, self.since, now);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if !self.over {
            let now = Instant::now();
            self.begin(now);
            // An endpoint that hangs fails; a caller that went away says nothing of it.
            let timed_out = self.progress.as_ref().is_some_and(|one| one.timed_out());
            self.record(timed_out.then_some(true), now);
        }
    }
}

/// How connections to an endpoint are made: in plain text, or in TLS with a transport header that names the port.
fn connector(
    shared: &Shared,
    address: SocketAddr,
    spec: &EndpointSpec,
    identity: Option<Arc<str>>,
    counts: TcpCounts,
) -> Connect {
    let source: Option<IpAddr> = shared.source;
    let tls = TlsConnector::from(Arc::clone(&shared.identity.client));
    let target = match (&identity, spec.inbound_port) {
        (Some(_), Some(port)) => SocketAddr::new(address.ip(), port),
        _ => address,
    };
    let header = spec
        .inbound_port
        .map(|_| TransportHeader::http2(address.port()).encode_with_preface());
    let invalid = |error: rustls::pki_types::InvalidDnsNameError| {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, error)
    };
    Connect::new(move || {
        let (tls, identity, header, counts) = (
            tls.clone(),
            identity.clone(),
            header.clone(),
            counts.clone(),
        );
        async move {
            let connect = async {
                let stream = io::connect(source, target).await?;
                let Some(identity) = identity else {
                    return Ok(Io::plain(stream, counts));
                };
                let name = ServerName::try_from(identity.to_string()).map_err(invalid)?;
                let stream = tls.connect(name, stream).await?;
                let mut io = Io::tls(tokio_rustls::TlsStream::from(stream), counts);
                if let Some(header) = header {
                    io.write_all(&header).await?;
                }
                Ok(io)
            };
            tokio::time::timeout(CONNECT_TIMEOUT, connect)
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        }
    })
}
