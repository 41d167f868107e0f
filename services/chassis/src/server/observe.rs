//! Span, trace context and metrics of every call, from its first byte to the end of its answer's body.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::Code;
use tower::{Layer, Service};
use tracing::Span;

use super::details;
use crate::methods::{Method, Methods, code_name};
use crate::trace::{self, KeyValue};

#[derive(Clone, Debug)]
pub(crate) struct ObserveLayer {
    methods: Arc<Methods>,
    domain: Arc<str>,
}

impl ObserveLayer {
    /// `domain` names this service in errors that have no details of their own.
    pub(crate) fn new(methods: Arc<Methods>, domain: Arc<str>) -> Self {
        Self { methods, domain }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ObservedBody<R>>;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let method = Arc::clone(self.layer.methods.get(request.uri().path()));
        let span = tracing::info_span!(
            "rpc",
            "rpc.method" = method.full_name,
            "otel.kind" = "server"
        );
        if let Some(parent) = trace::of_request(request.headers())
            && let Ok(parent) = parent.to_str()
        {
            trace::set_parent(&span, parent);
        }
        let attributes = || [KeyValue::new("rpc.system.name", "grpc")];
        trace::describe(&span, || method.full_name.clone(), attributes);
        // Found once here, so that the layers below need no table.
        request.extensions_mut().insert(Arc::clone(&method));
        let exported = if trace::exporting() {
            span.clone()
        } else {
            Span::none()
        };
        let record = Record::start(method, Arc::clone(&self.layer.domain), exported);
        let inner = span.in_scope(|| self.inner.call(request));
        ObserveFuture {
            inner,
            span,
            record: Some(record),
        }
    }
}

/// Counts the call when it is dropped: answered, failed, or abandoned by its caller.
#[derive(Debug)]
struct Record {
    method: Arc<Method>,
    start: Instant,
    code: Option<Code>,
    domain: Arc<str>,
    /// None where spans are not exported.
    span: Span,
}

impl Record {
    fn start(method: Arc<Method>, domain: Arc<str>, span: Span) -> Self {
        method.in_flight.increment(1.0);
        Self {
            method,
            start: Instant::now(),
            code: None,
            domain,
            span,
        }
    }

    /// Takes the call's status from headers or trailers, if it is there.
    fn see(&mut self, headers: &mut HeaderMap) {
        if let Some(code) = details::complete(headers, &self.domain) {
            self.code = Some(code);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.method.in_flight.decrement(1.0);
        let code = self.code.unwrap_or(Code::Cancelled);
        self.method.calls.ended(code, self.start.elapsed());
        trace::attribute(&self.span, "rpc.response.status_code", code_name(code));
        if is_failure(code) {
            trace::failed(&self.span, code_name(code));
        }
    }
}

/// Whether a server that answers this has failed; with the other codes it was asked for what it does not do.
fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

pin_project! {
    pub(crate) struct ObserveFuture<F> {
        #[pin]
        inner: F,
        span: Span,
        record: Option<Record>,
    }
}

impl<F, R, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ObservedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = {
            let _entered = this.span.enter();
            ready!(this.inner.poll(cx))
        };
        let (span, mut record) = (
            std::mem::replace(this.span, Span::none()),
            this.record.take(),
        );
        Poll::Ready(answered.map(|mut response| {
            if let Some(record) = &mut record {
                record.see(response.headers_mut());
            }
            response.map(|inner| ObservedBody {
                inner,
                span,
                record,
            })
        }))
    }
}

pin_project! {
    /// A body that records its call's status when it ends.
    pub(crate) struct ObservedBody<B> {
        #[pin]
        inner: B,
        span: Span,
        record: Option<Record>,
    }
}

impl<B: Body> Body for ObservedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut frame = {
            let _entered = this.span.enter();
            ready!(this.inner.poll_frame(cx))
        };
        if let (Some(record), Some(Ok(frame))) = (this.record.as_mut(), &mut frame)
            && let Some(trailers) = frame.trailers_mut()
        {
            record.see(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
