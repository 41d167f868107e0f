//! The end of a route's stack: which of its backends a request goes to, and what is counted of each.

use std::sync::Arc;

use rand::RngExt as _;
use tokio::time::Instant;

use super::balance::Balancer;
use crate::error::ProxyError;
use crate::http::observe::End;
use crate::http::{Request, Response, Serve};
use crate::metrics::responses::{RouteMetrics, RouteObserver};
use crate::policy::filter::Filter;

/// Chooses a backend.
#[derive(Debug)]
pub(crate) struct Distribute {
    backends: Vec<RouteBackend>,
    total_weight: u32,
}

/// A backend of a route.
#[derive(Debug)]
pub(crate) struct RouteBackend {
    /// How often it is chosen, against the others.
    pub(crate) weight: u32,
    /// What is done to requests for it.
    pub(crate) filters: Vec<Filter>,
    /// Its endpoints; without any every request fails with this.
    pub(crate) balancer: Result<Arc<Balancer>, ProxyError>,
    /// What is counted.
    pub(crate) metrics: Arc<RouteMetrics>,
}

impl Distribute {
    /// Over these.
    pub(crate) fn new(backends: Vec<RouteBackend>) -> Self {
        let total_weight = backends.iter().map(|backend| backend.weight).sum();
        Self {
            backends,
            total_weight,
        }
    }

    fn choose(&self) -> Option<&RouteBackend> {
        if let [only] = self.backends.as_slice() {
            return Some(only);
        }
        if self.total_weight == 0 {
            return None;
        }
        let mut at = rand::rng().random_range(0..self.total_weight);
        self.backends.iter().find(|backend| {
            let here = at < backend.weight;
            at = at.saturating_sub(backend.weight);
            here
        })
    }
}

impl Serve for Distribute {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        let backend = self
            .choose()
            .ok_or_else(|| ProxyError::NoBackend("the route has none".into()))?;
        for filter in &backend.filters {
            let uri = request.uri().clone();
            filter.request(&uri, request.headers_mut())?;
        }
        let balancer = backend.balancer.as_ref().map_err(Clone::clone)?;
        let since = Instant::now();
        backend.metrics.request();
        match balancer.call(request).await {
            Ok(mut response) => {
                for filter in &backend.filters {
                    filter.response(response.headers_mut());
                }
                let observer = RouteObserver::new(Arc::clone(&backend.metrics), since);
                response
                    .body_mut()
                    .observe(Box::new(observer.with_frames()));
                Ok(response)
            }
            Err(error) => {
                let end = End::of_error(&error);
                backend.metrics.response(&end, since, Instant::now());
                Err(error)
            }
        }
    }
}
