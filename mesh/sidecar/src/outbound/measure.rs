//! The layer that counts what the app sees of a route: after all retries, with the sidecar's own errors.

use std::sync::Arc;

use tokio::time::Instant;
use tower::Layer;

use crate::error::ProxyError;
use crate::http::observe::End;
use crate::http::{Request, Response, Serve};
use crate::metrics::responses::{RouteMetrics, RouteObserver};

/// Makes [`Measured`].
#[derive(Clone, Debug)]
pub(crate) struct MeasureLayer(pub(crate) Arc<RouteMetrics>);

/// Counts requests and responses of a route.
#[derive(Debug)]
pub(crate) struct Measured<S> {
    inner: S,
    metrics: Arc<RouteMetrics>,
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured {
            inner,
            metrics: Arc::clone(&self.0),
        }
    }
}

impl<S: Serve> Serve for Measured<S> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        let since = Instant::now();
        request.body_mut().count_frames(self.metrics.frames());
        let result = self.inner.call(request).await;
        match result {
            Ok(mut response) => {
                response.body_mut().observe(Box::new(RouteObserver::new(
                    Arc::clone(&self.metrics),
                    since,
                )));
                Ok(response)
            }
            Err(error) => {
                let end = End::of_error(&error);
                self.metrics.response(&end, since, Instant::now());
                Err(error)
            }
        }
    }
}
