//! The layer of a rule's filters.

use tower::Layer;

use crate::error::ProxyError;
use crate::http::{Request, Response, Serve};
use crate::policy::filter::Filter;

/// Makes [`WithFilters`].
#[derive(Clone, Debug)]
pub(crate) struct FiltersLayer(pub(crate) Vec<Filter>);

/// Applies a rule's filters.
#[derive(Debug)]
pub(crate) struct WithFilters<S> {
    inner: S,
    filters: Vec<Filter>,
}

impl<S> Layer<S> for FiltersLayer {
    type Service = WithFilters<S>;

    fn layer(&self, inner: S) -> WithFilters<S> {
        WithFilters {
            inner,
            filters: self.0.clone(),
        }
    }
}

impl<S: Serve> Serve for WithFilters<S> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        if self.filters.is_empty() {
            return self.inner.call(request).await;
        }
        let uri = request.uri().clone();
        for filter in &self.filters {
            filter.request(&uri, request.headers_mut())?;
        }
        let mut response = self.inner.call(request).await?;
        for filter in &self.filters {
            filter.response(response.headers_mut());
        }
        Ok(response)
    }
}
