//! A network of named hosts. Connections are ordered byte streams, as TCP's are: what is under way is delayed, held back by a partition until
//! it heals, or lost with its connection. Across connections everything may overtake everything.

mod pipe;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use chassis::Listener;
use chassis::env::{BoxIo, Connector};
use http::Uri;
use tokio::sync::{Notify, mpsc};

use crate::dice::Dice;
use crate::history::Recorder;
use pipe::{End, Pipe};

/// Told before a host sends something.
pub type OnSend = Arc<dyn Fn(&str) + Send + Sync>;

/// See the module's documentation. Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified when partitions or hosts change.
    changed: Notify,
    dice: Dice,
    history: Arc<Recorder>,
    on_send: OnceLock<OnSend>,
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<String, Host>,
    connections: BTreeMap<u64, Connection>,
    /// Pairs (from, to) between which nothing arrives.
    cut: BTreeSet<(String, String)>,
    /// Connections of hosts that went down silently: their peers notice when the host is up again.
    silent: Vec<(String, Pipe, Pipe)>,
    /// Hosts that stand still: nothing leaves them, and nothing arrives.
    frozen: BTreeSet<String>,
    /// Hosts behind one name, which is called in place of theirs.
    services: BTreeMap<String, Vec<String>>,
    /// Longest extra delay of a host's messages, milliseconds.
    slow: BTreeMap<String, u64>,
    next: u64,
}

#[derive(Default)]
struct Host {
    incarnation: u64,
    up: bool,
    accepting: Option<mpsc::UnboundedSender<BoxIo>>,
}

struct Connection {
    client: String,
    server: String,
    there: Pipe,
    back: Pipe,
}

impl Network {
    /// No hosts yet.
    pub fn new(seed: u64, history: Arc<Recorder>) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            dice: Dice::named(seed, "network"),
            history,
            on_send: OnceLock::new(),
        }))
    }

    /// What to call before a host sends something. It may crash the host.
    pub fn on_send(&self, call: OnSend) {
        drop(self.0.on_send.set(call));
    }

    /// A host comes up, as this incarnation of it.
    pub fn up(&self, name: &str, incarnation: u64) {
        let mut state = self.state();
        let host = state.hosts.entry(name.to_owned()).or_default();
        *host = Host {
            incarnation,
            up: true,
            accepting: None,
        };
        state.silent.retain(|(gone, there, back)| {
            if gone == name {
                there.vanish(false);
                back.vanish(false);
            }
            gone != name
        });
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// A host loses power. Whoever it was connected to notices at once, or, if it happens `silently`, not before it is up again.
    pub fn down(&self, host: &str, silently: bool) {
        let mut state = self.state();
        if let Some(host) = state.hosts.get_mut(host) {
            host.up = false;
            host.accepting = None;
        }
        let gone = |connection: &Connection| connection.is_of(host);
        let gone: Vec<u64> = state
            .connections
            .iter()
            .filter(|(_, connection)| gone(connection))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(Connection { there, back, .. }) = state.connections.remove(&id) else {
                continue;
            };
            there.vanish(silently);
            back.vanish(silently);
            if silently {
                state.silent.push((host.to_owned(), there, back));
            }
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// How this incarnation of a host connects to others.
    pub fn connector(&self, host: &str, incarnation: u64) -> Connector {
        let (network, host) = (self.clone(), host.to_owned());
        Connector::new(move |uri: Uri| {
            let (network, host) = (network.clone(), host.clone());
            async move {
                let peer = network.host_of(uri.host().unwrap_or_default());
                network.connect(&host, incarnation, &peer).await
            }
        })
    }

    /// The host that is called by a name.
    fn host_of(&self, name: &str) -> String {
        let state = self.state();
        let hosts = state.services.get(name).map_or(&[][..], Vec::as_slice);
        let up = |host: &&String| state.hosts.get(*host).is_some_and(|host| host.up);
        let up: Vec<&String> = hosts.iter().filter(up).collect();
        let chosen = match up.len() {
            0 => hosts.first(),
            _ => self.0.dice.pick(&up).copied(),
        };
        chosen.cloned().unwrap_or_else(|| name.to_owned())
    }

    /// Carries a request of a process to a host, or the answer `back`, on a connection of which nothing else is seen. False if it does not arrive: the host
    /// or, before it can ask, the process has lost power.
    pub async fn carry(&self, (from, incarnation): (&str, u64), to: &str, back: bool) -> bool {
        let life = self.life(to);
        if life.is_none() || !self.is(from, incarnation) {
            return false;
        }
        let (sender, receiver) = if back { (to, from) } else { (from, to) };
        tokio::time::sleep(self.delay(sender)).await;
        loop {
            let changed = self.0.changed.notified();
            let asks = self.is(from, incarnation);
            let cut = self.is_cut(sender, receiver);
            // What was sent arrives, even if there is nobody any more who waits for the answer.
            if self.life(to) != life || (!asks && (back || cut)) {
                return false;
            }
            if !cut {
                return true;
            }
            changed.await;
        }
    }

    /// Which incarnation of a host is up.
    fn life(&self, host: &str) -> Option<u64> {
        let state = self.state();
        let host = state.hosts.get(host).filter(|host| host.up);
        host.map(|host| host.incarnation)
    }

    async fn connect(&self, from: &str, incarnation: u64, to: &str) -> io::Result<BoxIo> {
        if !self.is(from, incarnation) {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        tokio::time::sleep(self.delay(from) + self.delay(to)).await;
        loop {
            let changed = self.0.changed.notified();
            if !self.is(from, incarnation) {
                return Err(io::ErrorKind::NetworkDown.into());
            }
            if !self.is_cut(from, to) && !self.is_cut(to, from) {
                break;
            }
            changed.await;
        }
        let mut state = self.state();
        let accepting = state.hosts.get(to).and_then(|host| host.accepting.clone());
        let Some(accepting) = accepting else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        state.next += 1;
        let id = state.next;
        let (there, back) = (Pipe::default(), Pipe::default());
        let end = |host: &str, peer: &str, forth: bool| {
            let (send, receive) = match forth {
                true => (there.clone(), back.clone()),
                false => (back.clone(), there.clone()),
            };
            End::new(self.clone(), (host, peer), (id, forth), (send, receive))
        };
        let (near, far) = (end(from, to, true), end(to, from, false));
        let connection = Connection {
            client: from.to_owned(),
            server: to.to_owned(),
            there: there.clone(),
            back: back.clone(),
        };
        state.connections.insert(id, connection);
        accepting
            .send(Box::new(far))
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(near))
    }

    /// A listener of a host; it takes what connects to the host from now on.
    pub fn listener(&self, host: &str, address: SocketAddr) -> Listener {
        let (sender, accepted) = mpsc::unbounded_channel::<BoxIo>();
        if let Some(host) = self.state().hosts.get_mut(host) {
            host.accepting = Some(sender);
        }
        let accepted = Arc::new(tokio::sync::Mutex::new(accepted));
        Listener::new(address, move || {
            let accepted = Arc::clone(&accepted);
            async move {
                match accepted.lock().await.recv().await {
                    Some(io) => Ok((io, SocketAddr::from(([10, 0, 0, 1], 1)))),
                    None => std::future::pending().await,
                }
            }
        })
    }

    /// Whether a host is up as this incarnation.
    pub fn is(&self, host: &str, incarnation: u64) -> bool {
        self.state()
            .hosts
            .get(host)
            .is_some_and(|host| host.up && host.incarnation == incarnation)
    }

    /// How long the next message of a host takes.
    fn delay(&self, host: &str) -> Duration {
        let slow = self.state().slow.get(host).copied().unwrap_or(0);
        let dice = &self.0.dice;
        // Mostly quick, now and then not.
        let usual = if dice.happens(30) { 40 } else { 3 };
        dice.millis(0, usual + slow)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&self) {
        for connection in self.connections.values() {
            connection.there.wake();
            connection.back.wake();
        }
    }
}

impl Connection {
    /// Whether a host has a part in it.
    fn is_of(&self, host: &str) -> bool {
        self.client == host || self.server == host
    }
}
