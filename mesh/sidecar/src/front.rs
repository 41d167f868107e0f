//! The layers at the front of both sides: answers for errors, and a limit of what is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Version;
use tower::Layer;

use crate::error::ProxyError;
use crate::http::respond::{self, Client};
use crate::http::{Request, Response, Serve, is_grpc, orig_proto};
use crate::metrics::errors::Errors;

/// Makes [`Respond`].
#[derive(Clone, Debug)]
pub(crate) struct RespondLayer {
    /// Where errors are counted.
    pub(crate) errors: Arc<Errors>,
}

/// Turns errors into responses: the end of the line, nothing escapes it.
#[derive(Debug)]
pub(crate) struct Respond<S> {
    inner: S,
    errors: Arc<Errors>,
}

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Respond<S> {
        Respond {
            inner,
            errors: Arc::clone(&self.errors),
        }
    }
}

impl<S> Respond<S> {
    /// What is inside.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: Serve> Respond<S> {
    /// Answers a request; an `informed` client is told why the sidecar answered itself.
    pub(crate) async fn respond(&self, request: Request, informed: bool) -> Response {
        let client = Client {
            grpc: is_grpc(request.headers()),
            version: request.version(),
            informed,
        };
        match self.inner.call(request).await {
            Ok(mut response) => {
                if client.grpc {
                    response.body_mut().rescue();
                }
                if client.version <= Version::HTTP_11 {
                    orig_proto::strip_connection_headers(response.headers_mut());
                }
                response
            }
            Err(error) => {
                self.errors.count(&error);
                tracing::debug!(error = %crate::http::server::chain(&error), "answered by the sidecar");
                respond::answer(&error, client)
            }
        }
    }
}

/// Makes [`Shed`].
#[derive(Clone, Debug)]
pub(crate) struct ShedLayer {
    /// Requests under way on all threads.
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// How many there may be.
    pub(crate) max: usize,
    /// How many of them may be of this client.
    pub(crate) share: Option<Share>,
}

/// What one client has of something that all share.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// Its requests under way.
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// How many there may be.
    pub(crate) max: usize,
}

/// Refuses requests above a number under way. A request counts until its response's end.
#[derive(Debug)]
pub(crate) struct Shed<S> {
    inner: S,
    in_flight: Arc<AtomicUsize>,
    max: usize,
    share: Option<Share>,
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Shed<S> {
        Shed {
            inner,
            in_flight: Arc::clone(&self.in_flight),
            max: self.max,
            share: self.share.clone(),
        }
    }
}

impl<S> Shed<S> {
    /// What is inside.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: Serve> Serve for Shed<S> {
    async fn call(&self, request: Request) -> Result<Response, ProxyError> {
        let held = self.enter()?;
        let mut response = self.inner.call(request).await?;
        response.body_mut().hold(held);
        Ok(response)
    }
}

impl<S> Shed<S> {
    fn enter(&self) -> Result<InFlight, ProxyError> {
        let all = Counted::enter(&self.in_flight, self.max)
            .ok_or(ProxyError::LoadShed("too many requests under way"))?;
        let own = match &self.share {
            Some(share) => Some(Counted::enter(&share.in_flight, share.max).ok_or(
                ProxyError::LoadShed("this client has too many requests under way"),
            )?),
            None => None,
        };
        Ok(InFlight {
            _all: all,
            _own: own,
        })
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct InFlight {
    _all: Counted,
    _own: Option<Counted>,
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn enter(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let counted = Self(Arc::clone(count));
        (before < max).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
