//! The side that peers call: from a peer's mTLS to the app's plain HTTP.

mod accept;
mod app;
mod authorize;
mod decision;
mod handshakes;
mod identify;
mod peer_labels;
mod peers;
mod port;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

use crate::control::Control;
use crate::front::{Respond, RespondLayer, Share, Shed, ShedLayer};
use crate::http::server::{self, HttpVersion, Violations, limits};
use crate::http::{RequestBody, orig_proto};
use crate::identity::Identity;
use crate::io::Io;
use crate::metrics::errors::Errors;
use crate::metrics::{Labels, Registry};
use accept::{Acceptor, Peer};
use app::App;
use authorize::{Authorize, AuthorizeLayer};
pub(crate) use handshakes::{Handshake, Handshakes};
use identify::{Identify, IdentifyLayer};
use peer_labels::{BytesAuthz, PeerLabels};
use peers::Admitted;
pub(crate) use peers::Peers;
use port::Port;

/// How long a port without connections is remembered.
const IDLE: Duration = Duration::from_secs(90);

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Policies.
    pub(crate) control: Control,
    /// Certificates.
    pub(crate) identity: Arc<Identity>,
    /// Metrics.
    pub(crate) registry: Registry,
    /// Where the app listens.
    pub(crate) app: IpAddr,
    /// The sidecar's own ports, which no peer may reach through it.
    pub(crate) own_ports: Vec<u16>,
    /// Requests under way at one time.
    pub(crate) max_in_flight: usize,
    /// Requests under way now.
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// Connections, and whose they are.
    pub(crate) peers: Arc<Peers>,
}

/// The inbound side of one thread.
#[derive(Debug)]
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    acceptor: Acceptor,
    ports: Mutex<HashMap<u16, (Arc<Port>, Instant)>>,
    violations: Violations,
}

/// The stack of one connection.
type Stack = Respond<Shed<Authorize<Identify<Arc<App>>>>>;

impl Inbound {
    /// Builds it on the thread that uses it.
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            acceptor: Acceptor::new(shared),
            shared: Arc::clone(shared),
            ports: Mutex::default(),
            violations: Violations::new(&shared.registry, "inbound"),
        })
    }

    /// Serves a connection of a peer's, which has a place for its handshake.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        mut handshake: Handshake,
        drain: CancellationToken,
    ) {
        let accepted = tokio::select! {
            accepted = self.acceptor.accept(stream, address) => accepted,
            () = handshake.evicted() => return self.acceptor.evicted(address),
            () = drain.cancelled() => return,
        };
        let Some((tls, peer, protocol)) = accepted else {
            return;
        };
        let admitted = match self.shared.peers.admit(&peer.identity) {
            Ok(admitted) => admitted,
            Err((reason, why)) => return self.acceptor.refuse(address, reason, why),
        };
        drop(handshake);
        let port = self.port(peer.port);
        self.acceptor.count(&peer, protocol, port.is_some());
        let Some(port) = port else {
            self.acceptor.refuse(
                address,
                "too_many_ports",
                "more ports are asked for than are followed",
            );
            return;
        };
        tokio::select! {
            () = port.settled() => {}
            () = drain.cancelled() => return,
        }
        let labels = PeerLabels::new(port.address, &port.policy().meta, &peer.identity);
        let io = self.acceptor.counted(tls, &labels);
        match protocol {
            Some(version) => {
                let stack = self.stack(port, peer, &admitted);
                self.http(io, stack, version, drain).await;
            }
            None => self.bytes(io, &port, &peer).await,
        }
        drop(admitted);
    }

    async fn http(&self, io: Io, stack: Stack, version: HttpVersion, drain: CancellationToken) {
        let stack = Arc::new(stack);
        let respond = move |mut request: http::Request<Incoming>| {
            let stack: Arc<Stack> = Arc::clone(&stack);
            // Before anything is decided or added: a peer that names a header in `Connection` has it removed here, and
            // not what the sidecar says in a header of that name. HTTP/2 has no such headers.
            if version == HttpVersion::Http1 {
                orig_proto::strip_connection_headers(request.headers_mut());
            }
            // Only peers of the mesh get here: all are told why.
            async move {
                stack
                    .respond(Box::new(request.map(RequestBody::from)), true)
                    .await
            }
        };
        server::serve(
            io,
            version,
            limits::PEER_STREAMS,
            drain,
            &self.violations,
            respond,
        )
        .await;
    }

    fn stack(&self, port: Arc<Port>, peer: Peer, admitted: &Admitted) -> Stack {
        let app = port.app(&peer.identity);
        let identify = IdentifyLayer::new(&peer);
        let labels = Labels::new()
            .with_target(port.address)
            .and(&peer_labels::server_labels(
                &port.policy().meta,
                port.address,
            ));
        let errors = Errors::new(&self.shared.registry, "inbound_http_errors_total", labels);
        ServiceBuilder::new()
            // Outermost: whatever fails below is answered in the peer's own terms.
            .layer(RespondLayer {
                errors: Arc::new(errors),
            })
            // Before any work: what cannot be served is refused at once.
            .layer(ShedLayer {
                in_flight: Arc::clone(&self.shared.in_flight),
                max: self.shared.max_in_flight,
                share: Some(Share {
                    in_flight: Arc::clone(&admitted.requests),
                    max: peers::half(self.shared.max_in_flight),
                }),
            })
            // Before the app or anything that costs: the route, who may call it, and how often.
            .layer(AuthorizeLayer {
                port,
                peer: Arc::new(peer),
            })
            // After the decision, which looks at the certificate alone: what the app is told of its caller.
            .layer(identify)
            // The app, in the HTTP version that the request had at its own client.
            .service(app)
    }

    /// Forwards bytes, where neither side speaks HTTP. When the sidecar drains they go on until one of the two is done
    /// or the time is over: nothing in them says where they may be cut.
    async fn bytes(&self, mut io: Io, port: &Port, peer: &Peer) {
        let mut policy = port.follow();
        // The first look is at the policy that applies now, each one after it at a change.
        policy.mark_changed();
        let refused = async {
            let mut counted = BytesAuthz::new(&self.shared.registry, port.address, &peer.identity);
            while policy.changed().await.is_ok() {
                let policy = policy.borrow_and_update();
                let decided = policy.admits_bytes(peer.address.ip(), &peer.identity);
                counted.decided(&policy.meta, decided.as_ref().ok().copied());
                if let Err(refused) = decided {
                    return refused;
                }
            }
            // The policy changes no more: the sidecar is about to end.
            std::future::pending().await
        };
        let copied = async {
            let mut app = port.app(&peer.identity).connect_bytes().await?;
            tokio::io::copy_bidirectional(&mut io, &mut app).await
        };
        tokio::select! {
            // Before the app is connected to, let alone sent anything.
            biased;
            (reason, why) = refused => self.acceptor.refuse(peer.address, reason, why),
            copied = copied => if let Err(error) = copied {
                tracing::debug!(%error, port = peer.port, "a connection of bytes ended in an error");
            },
        }
    }

    fn port(&self, port: u16) -> Option<Arc<Port>> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((known, used)) = ports.get_mut(&port) {
            *used = now;
            return Some(Arc::clone(known));
        }
        let updates = self.shared.control.watch_server(port)?;
        let made = Arc::new(Port::new(&self.shared, port, updates));
        ports.insert(port, (Arc::clone(&made), now));
        Some(made)
    }

    /// Forgets ports without connections, unless the control plane is away.
    pub(crate) fn forget_idle(&self, now: Instant) {
        let healthy = self.shared.control.is_healthy();
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|_, (port, used)| {
            port.forget_idle();
            !healthy || Arc::strong_count(port) > 1 || now.saturating_duration_since(*used) < IDLE
        });
    }
}
