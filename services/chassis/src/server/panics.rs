//! A panic in a handler, or in the stream that it returned, becomes INTERNAL; the process lives on.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use crate::problem::Domain;

#[derive(Clone, Copy, Debug)]
pub(crate) struct PanicLayer;

impl<S> Layer<S> for PanicLayer {
    type Service = Panics<S>;

    fn layer(&self, inner: S) -> Panics<S> {
        Panics { inner }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Panics<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Panics<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<PanicBody<R>>;
    type Error = S::Error;
    type Future = PanicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        PanicFuture {
            inner: catch_unwind(AssertUnwindSafe(|| self.inner.call(request))).ok(),
        }
    }
}

/// The text of a panic may hold anything, personal data too: it goes to stderr by the panic hook, never to a caller.
fn status() -> Status {
    metrics::counter!("grpc_server_panics_total").increment(1);
    tracing::error!("a handler panicked; its caller is answered INTERNAL");
    Domain("chassis.sagamesh")
        .problem(
            tonic::Code::Internal,
            "PANIC",
            "the service failed while it handled this request; its log says why",
        )
        .into()
}

pin_project! {
    pub(crate) struct PanicFuture<F> {
        #[pin]
        inner: Option<F>,
    }
}

impl<F, R, E> Future for PanicFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = Result<Response<PanicBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inner) = self.project().inner.as_pin_mut() else {
            return Poll::Ready(Ok(status().into_http()));
        };
        match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(poll) => poll.map_ok(|response| {
                response.map(|inner| PanicBody {
                    inner,
                    panicked: false,
                })
            }),
            Err(_) => Poll::Ready(Ok(status().into_http())),
        }
    }
}

pin_project! {
    #[derive(Default)]
    pub(crate) struct PanicBody<B> {
        #[pin]
        inner: B,
        panicked: bool,
    }
}

impl<B: Body<Data = Bytes>> Body for PanicBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if *this.panicked {
            return Poll::Ready(None);
        }
        let inner = this.inner;
        catch_unwind(AssertUnwindSafe(|| inner.poll_frame(cx))).unwrap_or_else(|_| {
            *this.panicked = true;
            Poll::Ready(Some(Ok(super::trailers(&status()))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.panicked || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
