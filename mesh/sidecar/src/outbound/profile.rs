//! What one thread has built from a destination's policy: a stack for each rule, and the balancers below them.

use std::sync::Arc;

use http::Version;
use tokio::sync::watch;

use super::Shared;
use super::balance::{Balancer, BalancerKey};
use super::stack::{self, RuleStack};
use crate::control::endpoints::Endpoints;
use crate::error::ProxyError;
use crate::http::{Request, Response, Serve};
use crate::policy::matching;
use crate::policy::outbound::{Backend, ClientPolicy, Route, Target};

/// A destination, ready for requests.
#[derive(Debug)]
pub(crate) struct Profile {
    http1: Option<Routes>,
    http2: Option<Routes>,
    balancers: Vec<Arc<Balancer>>,
}

#[derive(Debug)]
struct Routes {
    routes: Arc<[Route]>,
    /// By route and rule.
    stacks: Vec<Vec<RuleStack>>,
}

impl Profile {
    /// Builds the stacks. Balancers of the profile before this one are kept where they are still the same: their
    /// connections stay.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        authority: &Arc<str>,
        policy: &Arc<ClientPolicy>,
        before: Option<&Self>,
    ) -> Self {
        let mut balancers = Balancers {
            shared,
            authority,
            policy,
            before: before.map_or(&[], |profile| &profile.balancers),
            http2: true,
            made: Vec::new(),
        };
        let http2 = policy
            .http2
            .as_ref()
            .map(|routes| Routes::new(shared, policy, routes, &mut balancers));
        balancers.http2 = false;
        let http1 = policy
            .http1
            .as_ref()
            .map(|routes| Routes::new(shared, policy, routes, &mut balancers));
        Self {
            http1,
            http2,
            balancers: balancers.made,
        }
    }
}

impl Routes {
    fn new(
        shared: &Shared,
        policy: &ClientPolicy,
        routes: &Arc<[Route]>,
        balancers: &mut Balancers<'_>,
    ) -> Self {
        let stacks = routes
            .iter()
            .map(|route| {
                route
                    .rules
                    .iter()
                    .map(|rule| stack::of_rule(shared, &policy.meta, route, rule, balancers))
                    .collect()
            })
            .collect();
        Self {
            routes: Arc::clone(routes),
            stacks,
        }
    }
}

impl Serve for Profile {
    async fn call(&self, request: Request) -> Result<Response, ProxyError> {
        let routes = if request.version() == Version::HTTP_2 {
            &self.http2
        } else {
            &self.http1
        };
        let routes = routes.as_ref().ok_or(ProxyError::NoRoute)?;
        let (route, rule) = matching::find(&routes.routes, &request).ok_or(ProxyError::NoRoute)?;
        routes.stacks[route][rule].call(request).await
    }
}

/// Makes the balancers of a profile, one for each different backend.
pub(crate) struct Balancers<'a> {
    shared: &'a Arc<Shared>,
    authority: &'a Arc<str>,
    policy: &'a ClientPolicy,
    before: &'a [Arc<Balancer>],
    http2: bool,
    made: Vec<Arc<Balancer>>,
}

impl Balancers<'_> {
    /// The balancer of `backend`.
    pub(crate) fn get(&mut self, backend: &Backend) -> Result<Arc<Balancer>, ProxyError> {
        let mut key = BalancerKey {
            path: "".into(),
            http2: self.http2,
            accrual: self.policy.accrual,
            default_rtt: std::time::Duration::from_millis(30),
            decay: std::time::Duration::from_secs(10),
            queue: backend.queue,
            failfast: backend.failfast,
        };
        let fixed = match &backend.target {
            Target::Fail => return Err(ProxyError::NoBackend(backend.meta.to_string().into())),
            Target::Forward(address, spec) => {
                key.path = format!("{address} {spec:?}").into();
                let by_address = [(*address, Arc::clone(spec))].into();
                Some(Arc::new(Endpoints {
                    known: true,
                    by_address,
                }))
            }
            Target::Balancer {
                path,
                default_rtt,
                decay,
            } => {
                key.path = Arc::clone(path);
                key.default_rtt = *default_rtt;
                key.decay = *decay;
                None
            }
        };
        if let Some(same) = self
            .made
            .iter()
            .chain(self.before)
            .find(|balancer| balancer.key == key)
            .cloned()
        {
            if !self.made.iter().any(|made| Arc::ptr_eq(made, &same)) {
                self.made.push(Arc::clone(&same));
            }
            return Ok(same);
        }
        let updates = match fixed {
            Some(endpoints) => watch::channel(endpoints).1,
            None => self
                .shared
                .control
                .watch_endpoints(&key.path)
                .ok_or(ProxyError::LoadShed("too many destinations"))?,
        };
        let labels = self
            .policy
            .meta
            .labels_with_port("parent")
            .and(&backend.meta.labels_with_port("backend"));
        let balancer = Balancer::new(self.shared, self.authority, key, updates, &labels);
        self.made.push(Arc::clone(&balancer));
        Ok(balancer)
    }
}
