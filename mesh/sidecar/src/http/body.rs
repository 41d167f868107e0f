//! The body of a response: one wrapper for timeouts, metrics and classification, however many layers take part.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::observe::{End, Observe};
use super::respond;
use crate::error::{BoxError, ProxyError};
use crate::front::InFlight;
use crate::outbound::timeouts::Timers;

/// The body of a response.
pub(crate) struct ResponseBody {
    source: Source,
    status: StatusCode,
    grpc_status: Option<u8>,
    observers: Vec<Box<dyn Observe>>,
    timers: Option<Box<Timers>>,
    held: Option<InFlight>,
    /// A failure becomes trailers with a gRPC status instead of a reset.
    rescue: bool,
    over: bool,
}

enum Source {
    Empty,
    #[cfg(test)]
    Full(Option<Bytes>, Option<http::HeaderMap>),
    Incoming(Incoming),
    /// Frames that were looked at, then the rest.
    Peeked(VecDeque<Frame<Bytes>>, Incoming),
}

impl ResponseBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::new(Source::Empty, StatusCode::OK, None)
    }

    /// A body in one piece, with trailers.
    #[cfg(test)]
    pub(crate) fn full(data: Option<Bytes>, trailers: Option<http::HeaderMap>) -> Self {
        Self::new(Source::Full(data, trailers), StatusCode::OK, None)
    }

    /// The body of what a peer or the app answered.
    pub(crate) fn incoming(response: http::Response<Incoming>) -> http::Response<Self> {
        let (parts, body) = response.into_parts();
        let grpc_status = super::grpc_status(&parts.headers);
        let body = Self::new(Source::Incoming(body), parts.status, grpc_status);
        http::Response::from_parts(parts, body)
    }

    fn new(source: Source, status: StatusCode, grpc_status: Option<u8>) -> Self {
        Self {
            source,
            status,
            grpc_status,
            observers: Vec::new(),
            timers: None,
            held: None,
            rescue: false,
            over: false,
        }
    }

    /// Tells `observer` of what comes.
    pub(crate) fn observe(&mut self, observer: Box<dyn Observe>) {
        self.observers.push(observer);
    }

    /// Cuts the body off when these run out.
    pub(crate) fn limit(&mut self, timers: Box<Timers>) {
        self.timers = Some(timers);
    }

    /// Counts as under way until its end.
    pub(crate) fn hold(&mut self, held: InFlight) {
        self.held = Some(held);
    }

    /// Turns failures from here on into trailers with a gRPC status.
    pub(crate) fn rescue(&mut self) {
        self.rescue = true;
    }

    /// The gRPC status, as far as it is known.
    pub(crate) fn known_grpc_status(&self) -> Option<u8> {
        self.grpc_status
    }

    /// What a test's response says.
    #[cfg(test)]
    pub(crate) fn set_grpc_status(&mut self, status: u8) {
        self.grpc_status = Some(status);
    }

    /// Waits for the first frame; if it is data, also takes the second if that is already here. So the status of a
    /// unary call is known before its response is passed on.
    pub(crate) async fn peek(&mut self) {
        let Source::Incoming(body) = &mut self.source else {
            return;
        };
        if body.is_end_stream() {
            return;
        }
        let mut frames = VecDeque::new();
        let mut failed = None;
        match http_body_util::BodyExt::frame(body).await {
            Some(Ok(frame)) => {
                let is_data = frame.is_data();
                frames.push_back(frame);
                if is_data {
                    let next =
                        futures_util::FutureExt::now_or_never(http_body_util::BodyExt::frame(body));
                    match next {
                        Some(Some(Ok(frame))) => frames.push_back(frame),
                        Some(Some(Err(error))) => failed = Some(error),
                        Some(None) | None => {}
                    }
                }
            }
            Some(Err(error)) => failed = Some(error),
            None => {}
        }
        if let Some(trailers) = frames.back().and_then(Frame::trailers_ref) {
            self.grpc_status = super::grpc_status(trailers).or(self.grpc_status);
        }
        if let Some(error) = failed {
            self.finish(
                Some(ProxyError::transport("reading the response", error)),
                false,
            );
        }
        if let Source::Incoming(body) = std::mem::replace(&mut self.source, Source::Empty) {
            self.source = Source::Peeked(frames, body);
        }
    }

    fn finish(&mut self, error: Option<ProxyError>, cancelled: bool) {
        if std::mem::replace(&mut self.over, true) || self.observers.is_empty() {
            return;
        }
        let end = End {
            status: self.status,
            grpc_status: self.grpc_status,
            error,
            cancelled,
        };
        let now = Instant::now();
        for observer in &mut self.observers {
            observer.end(&end, now);
        }
    }

    /// Ends in `error`: as trailers where the client reads those, else as a reset.
    fn fail(&mut self, error: ProxyError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.timers = None;
        self.source = Source::Empty;
        let trailers = self.rescue.then(|| respond::trailers(&error));
        let boxed: BoxError = Box::new(error.clone());
        self.finish(Some(error), false);
        match trailers {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => Poll::Ready(Some(Err(boxed))),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Empty => Poll::Ready(None),
            #[cfg(test)]
            Source::Full(data, trailers) => Poll::Ready(match data.take() {
                Some(data) => Some(Ok(Frame::data(data))),
                None => trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Source::Incoming(body) => Pin::new(body).poll_frame(cx),
            Source::Peeked(frames, body) => match frames.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(body).poll_frame(cx),
            },
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    for observer in &mut this.observers {
                        observer.data(data.len());
                    }
                    if let Some(timers) = &this.timers {
                        timers.touch();
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.grpc_status = super::grpc_status(trailers).or(this.grpc_status);
                    this.finish(None, false);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.fail(ProxyError::transport("reading the response", error))
            }
            Poll::Ready(None) => {
                this.finish(None, false);
                Poll::Ready(None)
            }
            Poll::Pending => match this.timers.as_mut().map(|timers| timers.poll_expired(cx)) {
                Some(Poll::Ready(error)) => this.fail(error),
                _ => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            #[cfg(test)]
            Source::Full(data, trailers) => data.is_none() && trailers.is_none(),
            Source::Incoming(body) => body.is_end_stream(),
            Source::Peeked(frames, body) => frames.is_empty() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Incoming(body) => body.size_hint(),
            Source::Empty => SizeHint::with_exact(0),
            #[cfg(test)]
            Source::Full(Some(data), _) => SizeHint::with_exact(data.len() as u64),
            #[cfg(test)]
            Source::Full(..) => SizeHint::with_exact(0),
            Source::Peeked(..) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A response without a body is never polled: its headers were its end.
        let cancelled = !self.is_end_stream();
        self.finish(None, cancelled);
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("status", &self.status)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
