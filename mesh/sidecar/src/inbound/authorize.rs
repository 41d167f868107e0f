//! The layer that decides: which route, whether an authorization admits the caller, whether the rate limit does.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tower::Layer;

use super::accept::Peer;
use super::decision::Decision;
use super::peer_labels::{PeerLabels, Refusals};
use super::port::Port;
use crate::error::ProxyError;
use crate::http::observe::End;
use crate::http::{Request, Response, Serve};
use crate::policy::authz::Authorization;
use crate::policy::inbound::{Route, ServerPolicy};
use crate::policy::matching;

/// Makes [`Authorize`].
#[derive(Clone, Debug)]
pub(crate) struct AuthorizeLayer {
    /// The port.
    pub(super) port: Arc<Port>,
    /// Who is calling.
    pub(super) peer: Arc<Peer>,
}

/// Decides for each request of one connection.
#[derive(Debug)]
pub(crate) struct Authorize<S> {
    inner: S,
    port: Arc<Port>,
    peer: Arc<Peer>,
    decided: Mutex<Decided>,
}

/// What was decided for this peer under one policy: the same for each route, so found once.
#[derive(Debug)]
struct Decided {
    policy: Arc<ServerPolicy>,
    refusals: Arc<Refusals>,
    /// By route.
    routes: Vec<Option<Arc<Decision>>>,
}

impl Decided {
    /// Nothing yet.
    fn new(policy: Arc<ServerPolicy>, port: &Port, peer: &Peer) -> Self {
        let labels = PeerLabels::new(port.address, &policy.meta, &peer.identity);
        let refusals = Refusals::new(&port.registry, labels, policy.rate_limit.as_ref());
        Self {
            policy,
            refusals: Arc::new(refusals),
            routes: Vec::new(),
        }
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        let policy = self.port.policy();
        Authorize {
            inner,
            port: Arc::clone(&self.port),
            peer: Arc::clone(&self.peer),
            decided: Mutex::new(Decided::new(policy, &self.port, &self.peer)),
        }
    }
}

impl<S: Serve> Serve for Authorize<S> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        let since = Instant::now();
        let (policy, route_index, rule_index, decision) = self.decide(&request)?;
        self.admit(&policy, &decision, since)?;
        decision.begin(&mut request);
        let filtered = policy
            .protocol
            .routes()
            .and_then(|routes| filter(&routes[route_index], rule_index, &mut request));
        let result = match filtered {
            Ok(()) => self.inner.call(request).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(mut response) => {
                response.body_mut().observe(decision.follow(since));
                Ok(response)
            }
            Err(error) => {
                decision.ended(&End::of_error(&error), since, Instant::now());
                Err(error)
            }
        }
    }
}

impl<S> Authorize<S> {
    fn decide(
        &self,
        request: &Request,
    ) -> Result<(Arc<ServerPolicy>, usize, usize, Arc<Decision>), ProxyError> {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        // A policy binds new requests, also on connections that are older than it.
        if let Some(policy) = self.port.changed(&decided.policy) {
            *decided = Decided::new(policy, &self.port, &self.peer);
        }
        let Decided {
            policy,
            refusals,
            routes: decisions,
        } = &mut *decided;
        let routes = policy.protocol.routes()?;
        let Some((route, rule)) = matching::find(routes, request) else {
            refusals.no_route();
            return Err(ProxyError::NoRoute);
        };
        if decisions.is_empty() {
            decisions.resize_with(routes.len(), || None);
        }
        let decision = match &decisions[route] {
            Some(decision) => Arc::clone(decision),
            None => {
                let decision = Arc::new(self.decision(policy, &routes[route], refusals));
                decisions[route] = Some(Arc::clone(&decision));
                decision
            }
        };
        Ok((Arc::clone(policy), route, rule, decision))
    }

    fn decision(&self, policy: &ServerPolicy, route: &Route, refusals: &Arc<Refusals>) -> Decision {
        let (ip, identity) = (self.peer.address.ip(), Some(&*self.peer.identity));
        let all = || route.authorizations.iter().chain(&policy.authorizations);
        let admitting: Option<&Authorization> = all().find(|authz| authz.admits(ip, identity));
        if admitting.is_none() {
            tracing::info!(
                client = %self.peer.identity, server = %policy.meta, route = %route.meta, port = self.port.number,
                "Request denied"
            );
        }
        let authz = admitting.map(|authz| &*authz.meta);
        Decision::new(&self.port.registry, refusals, route, authz)
    }

    fn admit(
        &self,
        policy: &ServerPolicy,
        decision: &Decision,
        now: Instant,
    ) -> Result<(), ProxyError> {
        decision.decided.increment();
        if !decision.admitted {
            return Err(ProxyError::Unauthorized);
        }
        let Some(limit) = &policy.rate_limit else {
            return Ok(());
        };
        limit
            .check(Some(&self.peer.identity), now)
            .map_err(|scope| {
                decision.refusals.limited(scope);
                ProxyError::RateLimited
            })
    }
}

fn filter(route: &Route, rule: usize, request: &mut Request) -> Result<(), ProxyError> {
    let filters = &route.rules[rule].filters;
    if filters.is_empty() {
        return Ok(());
    }
    let uri = request.uri().clone();
    filters
        .iter()
        .try_for_each(|filter| filter.request(&uri, request.headers_mut()))
}
