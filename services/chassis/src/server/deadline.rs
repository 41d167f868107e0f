//! The deadline of a call: from `grpc-timeout`, or the default for unary calls. When it passes, the handler is dropped
//! and the caller is answered DEADLINE_EXCEEDED. Around the handler the task-local says what is left.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::deadline::{GRPC_TIMEOUT, Timer, parse};
use crate::methods::Method;
use crate::problem::Domain;
use crate::trace::{self, CONTEXT};

const ERRORS: Domain = Domain("chassis.sagamesh");

#[derive(Clone, Debug)]
pub(crate) struct DeadlineLayer {
    default: Duration,
    streams_end: CancellationToken,
}

impl DeadlineLayer {
    /// Unary calls without a deadline get `default`; streams are ended when `streams_end` is cancelled.
    pub(crate) fn new(default: Duration, streams_end: CancellationToken) -> Self {
        Self {
            default,
            streams_end,
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadlines<S>;

    fn layer(&self, inner: S) -> Deadlines<S> {
        Deadlines {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Deadlines<S> {
    inner: S,
    layer: DeadlineLayer,
}

impl<S, B, R> Service<Request<B>> for Deadlines<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<DeadlineBody<R>>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let streaming = request
            .extensions()
            .get::<Arc<Method>>()
            .is_some_and(|method| method.streaming);
        let timeout = match request
            .headers_mut()
            .remove(GRPC_TIMEOUT)
            .as_ref()
            .and_then(parse)
        {
            Some(timeout) => Some(timeout),
            None if streaming => None,
            None => Some(self.layer.default),
        };
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let context = trace::Context {
            deadline,
            traceparent: trace::of_request(request.headers()),
        };
        let limit = Limit {
            timer: Timer::new(deadline),
            streams_end: streaming
                .then(|| Box::pin(self.layer.streams_end.clone().cancelled_owned())),
            context: context.clone(),
        };
        let inner = CONTEXT.sync_scope(context.clone(), || self.inner.call(request));
        DeadlineFuture {
            inner: CONTEXT.scope(context, inner),
            limit: Some(limit),
        }
    }
}

/// What bounds a call.
struct Limit {
    timer: Timer,
    streams_end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    context: trace::Context,
}

impl Limit {
    /// Why the call must end now, if it must.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        if self.timer.poll(cx) {
            let text = "the deadline passed before the service was done: allow more time, or find out why it is slow";
            return Some(
                ERRORS
                    .problem(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", text)
                    .into(),
            );
        }
        if let Some(end) = &mut self.streams_end
            && end.as_mut().poll(cx).is_ready()
        {
            let text = "the service is shutting down: connect again";
            return Some(
                ERRORS
                    .problem(Code::Unavailable, "SHUTTING_DOWN", text)
                    .retry_after(Duration::from_millis(500))
                    .into(),
            );
        }
        None
    }
}

pin_project! {
    pub(crate) struct DeadlineFuture<F> {
        #[pin]
        inner: TaskLocalFuture<trace::Context, F>,
        limit: Option<Limit>,
    }
}

impl<F, R, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = Result<Response<DeadlineBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answered) = this.inner.poll(cx) {
            let limit = this.limit.take();
            return Poll::Ready(answered.map(|response| {
                response.map(|inner| DeadlineBody {
                    inner,
                    limit,
                    ended: false,
                })
            }));
        }
        match this.limit.as_mut().and_then(|limit| limit.poll(cx)) {
            Some(status) => Poll::Ready(Ok(status.into_http())),
            None => Poll::Pending,
        }
    }
}

pin_project! {
    #[derive(Default)]
    pub(crate) struct DeadlineBody<B> {
        #[pin]
        inner: B,
        limit: Option<Limit>,
        ended: bool,
    }
}

impl<B: Body<Data = Bytes>> Body for DeadlineBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let Some(limit) = this.limit else {
            return this.inner.poll_frame(cx);
        };
        let inner = this.inner;
        if let Poll::Ready(frame) =
            CONTEXT.sync_scope(limit.context.clone(), || inner.poll_frame(cx))
        {
            return Poll::Ready(frame);
        }
        match limit.poll(cx) {
            Some(status) => {
                *this.ended = true;
                Poll::Ready(Some(Ok(super::trailers(&status))))
            }
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
