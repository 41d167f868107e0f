//! The layer that decides: which route, whether an authorization admits the caller, whether the rate limit does.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tower::Layer;

use super::accept::Peer;
use super::port::Port;
use crate::error::ProxyError;
use crate::http::observe::{End, Observe};
use crate::http::{Request, Response, Serve};
use crate::metrics::responses::{HttpMetrics, Statuses, Style};
use crate::metrics::{Counter, Labels};
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
    /// By route.
    routes: Vec<Option<Arc<Decision>>>,
}

#[derive(Debug)]
struct Decision {
    admitted: bool,
    /// `inbound_http_authz_allow_total` or `_deny_total`.
    counter: Counter,
    http: HttpMetrics,
    statuses: Statuses,
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        let policy = self.port.policy();
        Authorize {
            inner,
            port: Arc::clone(&self.port),
            peer: Arc::clone(&self.peer),
            decided: Mutex::new(Decided {
                policy,
                routes: Vec::new(),
            }),
        }
    }
}

impl<S: Serve> Serve for Authorize<S> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        let since = Instant::now();
        let (policy, route_index, rule_index, decision) = self.decide(&request)?;
        decision.http.requests.increment();
        decision.counter.increment();
        let result = match self.admit(&policy, &decision, since) {
            Err(error) => Err(error),
            Ok(()) => {
                let filtered = policy
                    .protocol
                    .routes()
                    .and_then(|routes| filter(&routes[route_index], rule_index, &mut request));
                match filtered {
                    Ok(()) => self.inner.call(request).await,
                    Err(error) => Err(error),
                }
            }
        };
        match result {
            Ok(mut response) => {
                response
                    .body_mut()
                    .observe(Box::new(Following { decision, since }));
                Ok(response)
            }
            Err(error) => {
                let (status, code) = error.status();
                let end = End {
                    status,
                    grpc_status: Some(code as u8),
                    error: Some(error.clone()),
                    cancelled: false,
                };
                decision.ended(&end, since, Instant::now());
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
            *decided = Decided {
                policy,
                routes: Vec::new(),
            };
        }
        let Decided {
            policy,
            routes: decisions,
        } = &mut *decided;
        let routes = policy.protocol.routes()?;
        let (route, rule) = matching::find(routes, request).ok_or(ProxyError::NoRoute)?;
        if decisions.is_empty() {
            decisions.resize_with(routes.len(), || None);
        }
        let decision = match &decisions[route] {
            Some(decision) => Arc::clone(decision),
            None => {
                let decision = Arc::new(self.decision(policy, &routes[route]));
                decisions[route] = Some(Arc::clone(&decision));
                decision
            }
        };
        Ok((Arc::clone(policy), route, rule, decision))
    }

    fn decision(&self, policy: &ServerPolicy, route: &Route) -> Decision {
        let (ip, identity) = (self.peer.address.ip(), Some(&*self.peer.identity));
        let all = || route.authorizations.iter().chain(&policy.authorizations);
        let admitting: Option<&Authorization> = all().find(|authz| authz.admits(ip, identity));
        let registry = &self.port.registry;
        let labels = Labels::new()
            .with("target_port", self.port.number)
            .with("tls", "true")
            .with("client_id", &self.peer.identity)
            .and(&policy.meta.labels("srv"))
            .and(&route.meta.labels("route"));
        let labels = match admitting {
            Some(authz) => labels.and(&authz.meta.labels("authz")),
            None => labels,
        };
        let counter = match admitting {
            Some(_) => registry.counter(
                "inbound_http_authz_allow_total",
                "Requests that were authorized.",
                &labels,
            ),
            None => {
                tracing::info!(
                    client = %self.peer.identity, server = %policy.meta, route = %route.meta, port = self.port.number,
                    "Request denied"
                );
                registry.counter(
                    "inbound_http_authz_deny_total",
                    "Requests that were denied.",
                    &labels,
                )
            }
        };
        let labels = Labels::new()
            .with("direction", "inbound")
            .with("peer", "src")
            .and(&labels);
        let (name, style) = if route.grpc {
            ("inbound_grpc_statuses_total", Style::Grpc)
        } else {
            ("inbound_http_statuses_total", Style::Http)
        };
        Decision {
            admitted: admitting.is_some(),
            counter,
            http: HttpMetrics::new(registry, &labels),
            statuses: Statuses::new(registry, name, "Responses by status.", &labels, style),
        }
    }

    fn admit(
        &self,
        policy: &ServerPolicy,
        decision: &Decision,
        now: Instant,
    ) -> Result<(), ProxyError> {
        if !decision.admitted {
            return Err(ProxyError::Unauthorized);
        }
        let Some(limit) = &policy.rate_limit else {
            return Ok(());
        };
        limit
            .check(Some(&self.peer.identity), now)
            .map_err(|scope| {
                let labels = Labels::new()
                    .with("target_port", self.port.number)
                    .and(&policy.meta.labels("srv"))
                    .with("ratelimit_scope", scope.label());
                self.port
                    .registry
                    .counter(
                        "inbound_http_local_ratelimit_total",
                        "Requests that a rate limit refused.",
                        &labels,
                    )
                    .increment();
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

impl Decision {
    fn ended(&self, end: &End, since: Instant, now: Instant) {
        self.http.response(end, since, now);
        self.statuses.count(end);
    }
}

struct Following {
    decision: Arc<Decision>,
    since: Instant,
}

impl Observe for Following {
    fn end(&mut self, end: &End, now: Instant) {
        self.decision.ended(end, self.since, now);
    }
}
