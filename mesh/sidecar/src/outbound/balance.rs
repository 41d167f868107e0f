//! P2C: of two endpoints taken at random, the less loaded one. While none can be used requests wait, up to a limit
//! in number and time; from then on they fail at once until one can.

mod metrics;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::metrics::{Metrics, Queue};
use super::Shared;
use super::breaker::Admit;
use super::endpoint::{Endpoint, Settings};
use crate::control::endpoints::Endpoints;
use crate::error::ProxyError;
use crate::http::client::SendError;
use crate::http::{Request, Response, Serve};
use crate::metrics::{Gauge, Labels};
use crate::policy::outbound::Accrual;

/// What a balancer is made from; one is kept over a policy change as long as this stays the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BalancerKey {
    /// What the Destination API is asked for.
    pub(crate) path: Arc<str>,
    /// For HTTP/2 requests.
    pub(crate) http2: bool,
    /// When endpoints are taken out.
    pub(crate) accrual: Option<Accrual>,
    /// Load before the first answer.
    pub(crate) default_rtt: Duration,
    /// How fast load is forgotten.
    pub(crate) decay: Duration,
    /// Requests that may wait.
    pub(crate) queue: usize,
    /// How long they wait.
    pub(crate) failfast: Duration,
}

/// Spreads requests over the endpoints of a destination.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// What it was made from.
    pub(crate) key: BalancerKey,
    shared: Arc<Shared>,
    authority: Arc<str>,
    updates: watch::Receiver<Arc<Endpoints>>,
    state: Mutex<State>,
    changed: Arc<Notify>,
    waiting: AtomicUsize,
    queue: Queue,
}

#[derive(Debug)]
struct State {
    updates: watch::Receiver<Arc<Endpoints>>,
    /// The endpoints were never looked at. Said apart from `updates`, which says nothing any more once its sender is
    /// gone: at once, for endpoints that never change.
    new: bool,
    endpoints: Vec<(SocketAddr, Arc<Endpoint>)>,
    unavailable_since: Option<Instant>,
    /// Requests fail at once.
    shut: bool,
    metrics: Metrics,
}

enum Pick {
    Endpoint(Arc<Endpoint>, bool),
    /// None can be used; one may at this time.
    None {
        since: Instant,
        next: Option<Instant>,
    },
}

impl Balancer {
    /// Follows the endpoints and connects to them.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        authority: &Arc<str>,
        key: BalancerKey,
        updates: watch::Receiver<Arc<Endpoints>>,
        labels: &Labels,
    ) -> Arc<Self> {
        let metrics = Metrics::new(&shared.registry, labels, key.failfast);
        let queue = Queue::new(&shared.registry, labels);
        Arc::new(Self {
            key,
            shared: Arc::clone(shared),
            authority: Arc::clone(authority),
            state: Mutex::new(State {
                updates: updates.clone(),
                new: true,
                endpoints: Vec::new(),
                unavailable_since: None,
                shut: false,
                metrics,
            }),
            updates,
            changed: Arc::new(Notify::new()),
            waiting: AtomicUsize::new(0),
            queue,
        })
    }

    fn pick(&self, now: Instant) -> Pick {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.new) || state.updates.has_changed().unwrap_or(false) {
            self.update(&mut state);
        }
        let mut next: Option<Instant> = None;
        let mut usable = 0_u32;
        let mut chosen: [Option<(&Arc<Endpoint>, bool)>; 2] = [None, None];
        for (_, endpoint) in &state.endpoints {
            if !endpoint.is_ready() {
                continue;
            }
            let probe = match endpoint.breaker.as_ref().map(|breaker| breaker.check(now)) {
                None | Some(Admit::Yes) => false,
                Some(Admit::Probe) => true,
                Some(Admit::No(until)) => {
                    next = match (next, until) {
                        (Some(next), Some(until)) => Some(next.min(until)),
                        (next, until) => next.or(until),
                    };
                    continue;
                }
            };
            // Reservoir sampling: each pair is as likely, without a list of the usable ones.
            match usable {
                0 | 1 => chosen[usable as usize] = Some((endpoint, probe)),
                _ => {
                    let at = rand::rng().random_range(0..=usable) as usize;
                    if at < 2 {
                        chosen[at] = Some((endpoint, probe));
                    }
                }
            }
            usable += 1;
        }
        let best = match chosen {
            [Some(a), Some(b)] if b.0.load.cost(now) < a.0.load.cost(now) => Some(b),
            [a, _] => a,
        };
        // An endpoint whose probe is due takes it whenever it is looked at: load would say nothing.
        let best = chosen
            .into_iter()
            .flatten()
            .find(|(_, probe)| *probe)
            .or(best);
        let found = match best {
            Some((endpoint, true)) => {
                let taken = endpoint
                    .breaker
                    .as_ref()
                    .is_none_or(|breaker| breaker.take_probe(now));
                taken.then(|| (Arc::clone(endpoint), true))
            }
            Some((endpoint, false)) => Some((Arc::clone(endpoint), false)),
            None => None,
        };
        let all = state.endpoints.len();
        state.metrics.count(usable as usize, all);
        match found {
            Some((endpoint, probe)) => {
                state.unavailable_since = None;
                if std::mem::take(&mut state.shut) {
                    state.metrics.opened();
                }
                Pick::Endpoint(endpoint, probe)
            }
            None => Pick::None {
                since: *state.unavailable_since.get_or_insert(now),
                next,
            },
        }
    }

    fn update(&self, state: &mut State) {
        let endpoints = Arc::clone(&state.updates.borrow_and_update());
        if endpoints.known {
            state.metrics.updated();
        }
        let mut kept: HashMap<_, _> = std::mem::take(&mut state.endpoints).into_iter().collect();
        for (address, spec) in &endpoints.by_address {
            let same = kept
                .remove(address)
                .filter(|endpoint| endpoint.spec == *spec);
            let endpoint = same.unwrap_or_else(|| {
                let breaker = self.key.accrual.map(|accrual| {
                    self.shared
                        .breakers
                        .get(&self.authority, &self.key.path, *address, accrual)
                });
                let settings = Settings {
                    authority: &self.authority,
                    http2: self.key.http2,
                    default_rtt: self.key.default_rtt,
                    decay: self.key.decay,
                    failfast: self.key.failfast,
                    breaker,
                    changed: Arc::clone(&self.changed),
                };
                Arc::new(Endpoint::new(
                    &self.shared,
                    *address,
                    Arc::clone(spec),
                    settings,
                ))
            });
            state.endpoints.push((*address, endpoint));
        }
    }

    /// Waits for something to change: an endpoint, a connection, a probe's time, or the limit.
    async fn wait(&self, since: Instant, next: Option<Instant>) -> Result<(), ProxyError> {
        let limit = since + self.key.failfast;
        let error = || ProxyError::FailFast(Arc::clone(&self.authority));
        if Instant::now() >= limit {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::replace(&mut state.shut, true) {
                state.metrics.shut();
            }
            return Err(error());
        }
        let _waiting = Waiting::enter(self)?;
        let mut updates = self.updates.clone();
        let woken = self.changed.notified();
        // What changed between the pick and the line above would be missed for good: look again soon.
        let next = next
            .map_or(limit, |next| next.min(limit))
            .min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            () = woken => {}
            Ok(()) = updates.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
        Ok(())
    }
}

/// Linkerd's proxy has its own, larger queue than policies say.
const MIN_QUEUE: usize = 1000;
/// How often waiting requests look without being told.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A request that waits.
struct Waiting<'a>(&'a AtomicUsize, &'a Gauge);

impl<'a> Waiting<'a> {
    fn enter(balancer: &'a Balancer) -> Result<Self, ProxyError> {
        balancer.queue.length.add(1);
        let before = balancer.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(&balancer.waiting, &balancer.queue.length);
        if before >= balancer.key.queue.max(MIN_QUEUE) {
            return Err(ProxyError::LoadShed("balancer queue"));
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.add(-1);
    }
}

impl Serve for Balancer {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        self.queue.requests.increment();
        let came = Instant::now();
        let mut now = came;
        let mut limit = None;
        loop {
            match self.pick(now) {
                Pick::Endpoint(endpoint, probe) => {
                    if limit.is_none() {
                        let waited = now.saturating_duration_since(came);
                        self.queue.latency.record(waited.as_secs_f64());
                    }
                    let sent = endpoint.send(request, probe).await;
                    match sent {
                        Ok(response) => return Ok(response),
                        Err(SendError::Failed(error)) => return Err(error),
                        // Its connection ended between the pick and the send: another takes the request.
                        Err(SendError::NotSent(back)) => {
                            request = back;
                            // Not for ever: connections may come and go as fast as they are picked.
                            now = Instant::now();
                            if now >= *limit.get_or_insert(now + self.key.failfast) {
                                return Err(ProxyError::FailFast(Arc::clone(&self.authority)));
                            }
                            tokio::task::yield_now().await;
                        }
                    }
                }
                Pick::None { since, next } => {
                    Box::pin(self.wait(since, next)).await?;
                    now = Instant::now();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
