//! The threads of the data path: one current-thread runtime each. A connection is handed to one of them before its
//! first byte and stays there, with the connections to peers that its requests use: no request crosses threads.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inbound::{self, Handshake, Inbound};
use crate::outbound::{self, Outbound};

/// Connections that wait for a thread.
const WAITING: usize = 1024;
/// How often what is idle is looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// More often, down to this, if idle destinations are to be forgotten sooner.
const SHORTEST_SWEEP: Duration = Duration::from_millis(10);

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// Somebody's who says to be a peer.
    Inbound(TcpStream, SocketAddr, Handshake),
    /// The app's.
    Outbound(TcpStream, OwnedSemaphorePermit),
}

/// How connections end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains {
    /// Peers are told to go elsewhere.
    pub(crate) inbound: CancellationToken,
    /// Connections of peers that are open.
    pub(crate) inbound_open: TaskTracker,
    /// The app is told to go elsewhere.
    pub(crate) outbound: CancellationToken,
    /// Connections of the app that are open.
    pub(crate) outbound_open: TaskTracker,
    /// Everything ends now.
    pub(crate) stop: CancellationToken,
}

/// The threads, with connections handed to them in turn.
#[derive(Debug)]
pub(crate) struct Workers {
    senders: Vec<mpsc::Sender<Accepted>>,
    next: AtomicUsize,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    pub(crate) fn start(
        count: usize,
        inbound: &Arc<inbound::Shared>,
        outbound: &Arc<outbound::Shared>,
        drains: &Drains,
    ) -> std::io::Result<Self> {
        let mut workers = Self {
            senders: Vec::new(),
            next: AtomicUsize::new(0),
            threads: Vec::new(),
        };
        for number in 0..count {
            let (sender, receiver) = mpsc::channel(WAITING);
            let (inbound, outbound, drains) =
                (Arc::clone(inbound), Arc::clone(outbound), drains.clone());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let run = move || {
                runtime.block_on(run(receiver, &inbound, &outbound, &drains));
                runtime.shutdown_background();
            };
            workers.threads.push(
                std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .spawn(run)?,
            );
            workers.senders.push(sender);
        }
        Ok(workers)
    }

    /// Gives a connection to the next thread.
    pub(crate) async fn hand(&self, accepted: Accepted) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        // A thread only goes away at the end, and connections with it.
        let _ = self.senders[at].send(accepted).await;
    }

    /// Waits for the threads, which were told to stop.
    pub(crate) fn join(self) {
        drop(self.senders);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the data path panicked");
            }
        }
    }
}

async fn run(
    mut receiver: mpsc::Receiver<Accepted>,
    inbound: &Arc<inbound::Shared>,
    outbound: &Arc<outbound::Shared>,
    drains: &Drains,
) {
    let mut sweep = tokio::time::interval(SWEEP.min(outbound.discovery_idle.max(SHORTEST_SWEEP)));
    let inbound = Inbound::new(inbound);
    let outbound = Outbound::new(outbound);
    loop {
        let accepted = tokio::select! {
            accepted = receiver.recv() => accepted,
            _ = sweep.tick() => {
                let now = Instant::now();
                inbound.forget_idle(now);
                outbound.forget_idle(now);
                continue;
            }
            () = drains.stop.cancelled() => return,
        };
        match accepted {
            Some(Accepted::Inbound(stream, address, handshake)) => {
                let Ok(stream) = tokio::net::TcpStream::from_std(stream) else {
                    continue;
                };
                let serve =
                    Arc::clone(&inbound).serve(stream, address, handshake, drains.inbound.clone());
                drains.inbound_open.spawn(serve);
            }
            Some(Accepted::Outbound(stream, permit)) => {
                let Ok(stream) = tokio::net::TcpStream::from_std(stream) else {
                    continue;
                };
                let serve = Arc::clone(&outbound).serve(stream, drains.outbound.clone());
                drains.outbound_open.spawn(async move {
                    serve.await;
                    drop(permit);
                });
            }
            None => return,
        }
    }
}
