//! Load shedding: above the limit a request is refused at once with RESOURCE_EXHAUSTED and RetryInfo. Never UNAVAILABLE:
//! retries would repeat that, and circuit breakers would count it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use metrics::Counter;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::methods::Method;
use crate::problem::Domain;

/// What a refused caller is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long, and up to how many bytes, the rest of a refused request is read. Whoever answers before that makes the HTTP/2 library reset the
/// stream; what arrives for it afterwards counts as an error, and a thousand of those end the connection with all that is under way on it.
const READ_FOR: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 256 << 10;

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
    B: Body,
    R: Default,
{
    type Response = Response<PlacedBody<R>>;
    type Error = S::Error;
    type Future = ShedFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Whoever asks whether the process is healthy must hear it above all when it is busy.
        let exempt = request
            .extensions()
            .get::<Arc<Method>>()
            .is_some_and(|method| method.full_name.starts_with("grpc.health.v1.Health/"));
        let place = if exempt { None } else { self.gate.enter() };
        if exempt || place.is_some() {
            return ShedFuture::Admitted {
                inner: self.inner.call(request),
                place,
            };
        }
        self.gate.refused.increment(1);
        ShedFuture::Refused {
            body: request.into_body(),
            until: tokio::time::sleep(READ_FOR),
            left: READ_BYTES,
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
    #[project = Shedding]
    pub(crate) enum ShedFuture<F, B> {
        Admitted { #[pin] inner: F, place: Option<Place> },
        Refused { #[pin] body: B, #[pin] until: Sleep, left: usize },
    }
}

impl<F, B, R, E> Future for ShedFuture<F, B>
where
    F: Future<Output = Result<Response<R>, E>>,
    B: Body,
    R: Default,
{
    type Output = Result<Response<PlacedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Shedding::Admitted { inner, place } => {
                let answered = ready!(inner.poll(cx));
                let place = place.take();
                Poll::Ready(answered.map(|response| {
                    response.map(|inner| PlacedBody {
                        inner,
                        _place: place,
                    })
                }))
            }
            Shedding::Refused { body, until, left } => {
                if until.poll(cx).is_pending() {
                    ready!(read_to_end(body, left, cx));
                }
                Poll::Ready(Ok(overloaded().into_http()))
            }
        }
    }
}

/// Reads what is left of a body, and throws it away.
fn read_to_end<B: Body>(mut body: Pin<&mut B>, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    while let Some(Ok(frame)) = ready!(body.as_mut().poll_frame(cx)) {
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        match left.checked_sub(bytes) {
            Some(rest) => *left = rest,
            None => break,
        }
    }
    Poll::Ready(())
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
