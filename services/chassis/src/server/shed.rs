//! Load shedding: above the limit a request is refused at once with RESOURCE_EXHAUSTED and RetryInfo. Never UNAVAILABLE:
//! retries would repeat that, and circuit breakers would count it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use metrics::Counter;
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::methods::Method;
use crate::problem::Domain;

/// What a refused caller is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub(crate) struct ShedLayer {
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    busy: AtomicUsize,
    limit: usize,
    refused: Counter,
}

impl ShedLayer {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            gate: Arc::new(Gate {
                busy: AtomicUsize::new(0),
                limit,
                refused: metrics::counter!("grpc_server_shed_total"),
            }),
        }
    }
}

/// One request's place, held until its answer's body has ended.
#[derive(Debug)]
struct Place(Arc<Gate>);

impl Gate {
    fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        if self.busy.fetch_add(1, Ordering::AcqRel) < self.limit {
            Some(place)
        } else {
            None
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Shed<S> {
        Shed {
            inner,
            gate: Arc::clone(&self.gate),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Shed<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S, B, R> Service<Request<B>> for Shed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<PlacedBody<R>>;
    type Error = S::Error;
    type Future = ShedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Whoever asks whether the process is healthy must hear it above all when it is busy.
        let exempt = request
            .extensions()
            .get::<Arc<Method>>()
            .is_some_and(|method| method.full_name.starts_with("grpc.health.v1.Health/"));
        if exempt {
            return ShedFuture {
                inner: Some(self.inner.call(request)),
                place: None,
            };
        }
        match self.gate.enter() {
            Some(place) => ShedFuture {
                inner: Some(self.inner.call(request)),
                place: Some(place),
            },
            None => {
                self.gate.refused.increment(1);
                ShedFuture {
                    inner: None,
                    place: None,
                }
            }
        }
    }
}

fn overloaded() -> Status {
    Domain("chassis.sagamesh")
        .problem(Code::ResourceExhausted, "OVERLOADED", "the service handles as many requests as it may (--max-concurrent-requests): try again later")
        .retry_after(RETRY_AFTER)
        .into()
}

pin_project! {
    pub(crate) struct ShedFuture<F> {
        #[pin]
        inner: Option<F>,
        place: Option<Place>,
    }
}

impl<F, R, E> Future for ShedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = Result<Response<PlacedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(Ok(overloaded().into_http()));
        };
        let answered = ready!(inner.poll(cx));
        let place = this.place.take();
        Poll::Ready(answered.map(|response| {
            response.map(|inner| PlacedBody {
                inner,
                _place: place,
            })
        }))
    }
}

pin_project! {
    #[derive(Default)]
    pub(crate) struct PlacedBody<B> {
        #[pin]
        inner: B,
        _place: Option<Place>,
    }
}

impl<B: Body> Body for PlacedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
