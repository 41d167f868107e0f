//! A sidecar from start to end: bind, get a certificate, accept, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{AcquireError, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::control::metrics::ControlMetrics;
use crate::control::{Control, FIRST_ANSWER};
use crate::identity::{self, Identity};
use crate::metrics::{self, Registry};
use crate::policy::inbound::ServerPolicy;
use crate::worker::{Accepted, Drains, Workers};
use crate::{inbound, outbound};

/// How often metrics of what is gone are looked for.
const PRUNE: Duration = Duration::from_secs(30);
/// What is kept of the time for the drain for the app's own connections.
const OUTBOUND_SHARE: u32 = 4;

/// A sidecar that is bound, and serves as soon as it has a certificate.
#[derive(Debug)]
pub struct Sidecar {
    inbound: SocketAddr,
    outbound: Vec<SocketAddr>,
    admin: SocketAddr,
    grace: Duration,
    registry: Registry,
    ready: Arc<watch::Sender<bool>>,
    certified: watch::Receiver<bool>,
    accepting: [CancellationToken; 2],
    drains: Drains,
    tasks: TaskTracker,
    workers: Arc<Workers>,
}

impl Sidecar {
    /// Binds and starts. Needs a tokio runtime, which also serves the admin port and the control plane's streams.
    ///
    /// # Errors
    /// If an address is taken, or the identity cannot be made.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let registry = Registry::default();
        let drains = Drains::default();
        let tasks = TaskTracker::new();
        let identity = Arc::new(Identity::new(
            &config.identity.local_name,
            &config.identity.trust_anchors,
        )?);
        let inbound_listener = bind(config.inbound.listen).await?;
        let admin_listener = bind(config.admin_listen).await?;
        let mut outbound_listeners = Vec::new();
        for address in &config.outbound.listen {
            outbound_listeners.push(bind(*address).await?);
        }
        let inbound_address = inbound_listener.local_addr()?;
        let admin_address = admin_listener.local_addr()?;
        let outbound_addresses: Vec<SocketAddr> = outbound_listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()?;

        let control = Control::new(
            &config,
            &registry,
            tokio::runtime::Handle::current(),
            drains.stop.clone(),
        );
        tasks.spawn(identity::run_certify(
            Arc::clone(&identity),
            config.identity.token_file.clone(),
            control.identity(),
            ControlMetrics::new(&registry, config.control.identity),
            registry.clone(),
            drains.stop.clone(),
        ));
        tasks.spawn(prune(registry.clone(), drains.stop.clone()));
        let ready = Arc::new(watch::Sender::new(false));
        tasks.spawn(admin::serve(
            Admin {
                ready: ready.subscribe(),
                registry: registry.clone(),
            },
            admin_listener,
            drains.stop.clone(),
        ));

        let own_ports: Vec<u16> = outbound_addresses
            .iter()
            .map(SocketAddr::port)
            .chain([inbound_address.port(), admin_address.port()])
            .collect();
        let inbound_shared = Arc::new(inbound::Shared {
            control: control.clone(),
            identity: Arc::clone(&identity),
            registry: registry.clone(),
            app: config.inbound.ips[0],
            own_ports,
            max_in_flight: config.inbound.max_in_flight,
            in_flight: Arc::new(AtomicUsize::new(0)),
            peers: inbound::Peers::new(config.inbound.max_connections),
        });
        let outbound_shared = Arc::new(outbound::Shared {
            control: control.clone(),
            identity: Arc::clone(&identity),
            registry: registry.clone(),
            source: config.inbound.ips.first().copied(),
            local_ips: config.inbound.ips.clone(),
            inbound_port: inbound_address.port(),
            discovery_idle: config.outbound.discovery_idle,
            max_in_flight: config.outbound.max_in_flight,
            in_flight: Arc::new(AtomicUsize::new(0)),
            breakers: outbound::Breakers::default(),
        });
        let workers = Workers::start(config.cores, &inbound_shared, &outbound_shared, &drains)
            .context("cannot start the data path's threads")?;
        let workers = Arc::new(workers);

        // The policies of the app's ports are followed from the start, and for good.
        let followed: Vec<_> = config
            .inbound
            .ports
            .iter()
            .map(|port| control.watch_server(*port))
            .collect();
        let answers: Vec<_> = followed.iter().flatten().cloned().collect();
        let certified = identity.ready();
        let accepting = [CancellationToken::new(), CancellationToken::new()];
        let accept = Accept {
            certified: certified.clone(),
            workers: Arc::clone(&workers),
        };
        {
            let (accept, stop) = (accept.clone(), accepting[0].clone());
            let handshakes = inbound::Handshakes::new(config.inbound.max_handshakes);
            tasks.spawn(async move {
                let wrap =
                    |stream, address, ()| Accepted::Inbound(stream, address, handshakes.enter());
                // Whoever connects gets a place for the handshake, and one of a peer's after it.
                accept
                    .run(inbound_listener, stop, || std::future::ready(Ok(())), wrap)
                    .await;
                drop(followed);
            });
        }
        let permits = Arc::new(Semaphore::new(config.outbound.max_connections));
        for listener in outbound_listeners {
            let (accept, stop, permits) =
                (accept.clone(), accepting[1].clone(), Arc::clone(&permits));
            tasks.spawn(async move {
                let wrap = |stream, _, permit| Accepted::Outbound(stream, permit);
                // The app alone connects here, and waits when it has too many connections.
                let permit = || Arc::clone(&permits).acquire_owned();
                accept.run(listener, stop, permit, wrap).await;
            });
        }
        {
            let (certified, ready, stop) =
                (certified.clone(), Arc::clone(&ready), accepting[0].clone());
            tasks.spawn(async move {
                tokio::select! {
                    // Not ready any more, if both are true.
                    biased;
                    () = stop.cancelled() => {}
                    () = can_serve(certified, answers) => drop(ready.send_replace(true)),
                }
            });
        }
        metrics::describe(&registry);
        tracing::info!(
            inbound = %inbound_address, outbound = ?outbound_addresses, admin = %admin_address,
            identity = %identity.name, cores = config.cores, "listening"
        );
        Ok(Self {
            inbound: inbound_address,
            outbound: outbound_addresses,
            admin: admin_address,
            grace: config.shutdown_grace,
            registry,
            ready,
            certified,
            accepting,
            drains,
            tasks,
            workers,
        })
    }

    /// Where peers connect.
    pub fn inbound_addr(&self) -> SocketAddr {
        self.inbound
    }

    /// Where the app connects.
    pub fn outbound_addr(&self) -> SocketAddr {
        self.outbound[0]
    }

    /// Where /live, /ready and /metrics are served.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Whether it serves, as /ready says it.
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// What it counted, as /metrics says it.
    pub fn metrics(&self) -> String {
        self.registry.render()
    }

    /// Waits until it has a certificate.
    pub async fn ready(&self) {
        // The sender lives as long as the threads do.
        let _ = self
            .certified
            .clone()
            .wait_for(|certified| *certified)
            .await;
    }

    /// Drains and ends: first peers are told to go elsewhere, and what they asked for is finished (for which the app
    /// may need its own peers), then the app is. What is still under way when the time is over is cut off.
    pub async fn shutdown(self) {
        let limit = Instant::now() + self.grace;
        self.ready.send_replace(false);
        self.accepting[0].cancel();
        self.drains.inbound.cancel();
        self.drains.inbound_open.close();
        let first = limit - self.grace / OUTBOUND_SHARE;
        let drained = tokio::time::timeout_at(first, self.drains.inbound_open.wait())
            .await
            .is_ok();
        self.accepting[1].cancel();
        self.drains.outbound.cancel();
        self.drains.outbound_open.close();
        let drained = tokio::time::timeout_at(limit, self.drains.outbound_open.wait())
            .await
            .is_ok()
            && drained;
        if !drained {
            tracing::warn!(
                inbound = self.drains.inbound_open.len(),
                outbound = self.drains.outbound_open.len(),
                "the time to drain is over: these connections are cut off"
            );
        }
        self.drains.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            if let Ok(workers) = Arc::try_unwrap(workers) {
                workers.join();
            }
        });
        if joined.await.is_err() {
            tracing::error!("the data path's threads could not be joined");
        }
    }
}

#[derive(Clone)]
struct Accept {
    certified: watch::Receiver<bool>,
    workers: Arc<Workers>,
}

impl Accept {
    /// Accepts until `stop`, but not before there is a certificate. `permit` comes before each connection.
    async fn run<T, Fut>(
        mut self,
        listener: TcpListener,
        stop: CancellationToken,
        permit: impl Fn() -> Fut,
        wrap: impl Fn(std::net::TcpStream, SocketAddr, T) -> Accepted,
    ) where
        Fut: Future<Output = Result<T, AcquireError>>,
    {
        let accept = async {
            if self
                .certified
                .wait_for(|certified| *certified)
                .await
                .is_err()
            {
                return;
            }
            loop {
                let Ok(permit) = permit().await else {
                    return;
                };
                let accepted = async {
                    let (stream, address) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    Ok::<_, std::io::Error>((stream.into_std()?, address))
                };
                match accepted.await {
                    Ok((stream, address)) => self.workers.hand(wrap(stream, address, permit)).await,
                    Err(error) => {
                        // Out of file descriptors, most likely: trying again at once would only burn CPU.
                        tracing::warn!(%error, "Server failed to accept connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Waits for a certificate, and then for the policies of the app's ports: with neither would a peer get an answer.
async fn can_serve(
    mut certified: watch::Receiver<bool>,
    answers: Vec<watch::Receiver<Arc<ServerPolicy>>>,
) {
    if certified.wait_for(|certified| *certified).await.is_err() {
        // Its sender is gone: the sidecar is about to end.
        return std::future::pending().await;
    }
    let answered = async {
        for mut answer in answers {
            let _ = answer.wait_for(|policy| policy.answered).await;
        }
    };
    // Bounded: where the control plane says nothing, the default is the policy.
    let _ = tokio::time::timeout(FIRST_ANSWER, answered).await;
}

/// Drops metrics of what is gone, until `stop`.
async fn prune(registry: Registry, stop: CancellationToken) {
    let mut sweep = tokio::time::interval(PRUNE);
    loop {
        tokio::select! {
            _ = sweep.tick() => registry.prune(),
            () = stop.cancelled() => return,
        }
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}
