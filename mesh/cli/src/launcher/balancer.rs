//! The public port in front of several gateways: each connection goes to one that takes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::launcher::Running;
use crate::launcher::process::{Event, Levers};
use crate::system::Role;

/// Most connections at a time; more wait to be accepted. Each holds two of the launcher's files, and it needs some to start
/// processes.
const AT_ONCE: usize = 450;
/// How long a gateway may take to take a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time until connections are accepted again after that failed.
const AGAIN: Duration = Duration::from_millis(50);

/// A gateway behind the port.
#[derive(Debug)]
pub(super) struct Gateway {
    /// Its place among the launcher's processes.
    pub(super) index: usize,
    /// Its name.
    pub(super) label: String,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Whether it is ready, as far as the launcher knows.
    pub(super) ready: watch::Receiver<bool>,
}

/// Chooses a gateway for each connection.
#[derive(Debug)]
struct Choice {
    /// Each with whether it refused the last connection.
    gateways: Vec<(Gateway, AtomicBool)>,
    next: AtomicUsize,
    /// Whether the last connection found no gateway.
    nobody: AtomicBool,
    events: mpsc::UnboundedSender<(usize, Event)>,
}

impl Running {
    /// Hands connections to the public port to the gateways.
    pub(super) fn balance(
        &self,
        public: TcpListener,
        events: mpsc::UnboundedSender<(usize, Event)>,
    ) {
        let processes = self.instances.iter().zip(&self.levers).enumerate();
        let gateways = processes.filter(|(_, (instance, _))| {
            instance.role == Role::Service && instance.service == "gateway"
        });
        let gateways = gateways.map(|(index, (instance, levers))| Gateway {
            index,
            label: instance.label.clone(),
            address: instance.listen,
            ready: levers.ready.subscribe(),
        });
        let task = run(public, gateways.collect(), events, self.balancer.clone());
        self.tasks.spawn(task);
    }
}

/// Takes the public port.
pub(super) async fn bind(public: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(public).await;
    bound.with_context(|| format!("cannot listen on the public port {public}"))
}

/// Hands connections to the gateways. Takes no more once `levers` say drain, and ends when those that there are have ended;
/// at kill it ends at once.
pub(super) async fn run(
    listener: TcpListener,
    gateways: Vec<Gateway>,
    events: mpsc::UnboundedSender<(usize, Event)>,
    levers: Levers,
) {
    let calm = |gateway| (gateway, AtomicBool::new(false));
    let choice = Arc::new(Choice {
        gateways: gateways.into_iter().map(calm).collect(),
        next: AtomicUsize::new(0),
        nobody: AtomicBool::new(false),
        events,
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((client, _)) => {
                    let choice = Arc::clone(&choice);
                    connections.spawn(async move {
                        choice.carry(client).await;
                        drop(place);
                    });
                    while connections.try_join_next().is_some() {}
                }
                // What this process lacks (files, memory) comes back as connections end.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    };
    levers.drain.run_until_cancelled(accepting).await;
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is left ends with the set.
    levers.kill.run_until_cancelled(ended).await;
}

impl Choice {
    async fn carry(&self, client: TcpStream) {
        if let Some(gateway) = self.connect().await {
            carry(client, gateway).await;
        }
    }

    /// A connection to the next gateway in turn; to another one when that refuses it.
    async fn connect(&self) -> Option<TcpStream> {
        let count = self.gateways.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let mut turn: Vec<_> = (first..first + count)
            .map(|at| &self.gateways[at % count])
            .collect();
        // One that just came back may take connections before it is known to be ready.
        turn.sort_by_key(|(gateway, _)| !*gateway.ready.borrow());
        for (gateway, refused) in turn {
            let connecting = TcpStream::connect(gateway.address);
            let why = match tokio::time::timeout(PATIENCE, connecting).await {
                Ok(Ok(stream)) => {
                    refused.store(false, Ordering::Relaxed);
                    self.nobody.store(false, Ordering::Relaxed);
                    return Some(stream);
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
            };
            if !refused.swap(true, Ordering::Relaxed) {
                self.say(
                    gateway.index,
                    format!(
                        "{} takes no connections ({why}); the public port hands them to the others",
                        gateway.label
                    ),
                );
            }
        }
        if !self.nobody.swap(true, Ordering::Relaxed) {
            let text = "no gateway takes connections; the public port closes them until one does";
            self.say(0, text.to_owned());
        }
        None
    }

    fn say(&self, index: usize, text: String) {
        // Nobody listens any more only when the launcher itself ends.
        let _ = self.events.send((index, Event::Noted(text)));
    }
}

/// Carries bytes both ways, until the gateway has said all that it will: a client may stop sending before it has its answer.
async fn carry(mut client: TcpStream, mut gateway: TcpStream) {
    // Small answers are not to wait for more; without it they are merely slower.
    let _ = (client.set_nodelay(true), gateway.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_gateway, mut to_gateway) = gateway.split();
    let requests = async {
        // Whichever side ended it: the other one hears of it.
        let _ = tokio::io::copy(&mut from_client, &mut to_gateway).await;
        let _ = to_gateway.shutdown().await;
        std::future::pending::<()>().await;
    };
    let answers = async {
        let _ = tokio::io::copy(&mut from_gateway, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}

#[cfg(test)]
mod tests;
