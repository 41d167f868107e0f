//! The body of a peer's answer, under the deadline of its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::Span;

use crate::deadline::Timer;
use crate::methods::{self, Calls};
use crate::trace;

/// The body of a peer's answer: ends with DEADLINE_EXCEEDED when the call's time is over, and with UNAVAILABLE when
/// the connection is lost.
#[derive(Debug)]
pub struct PeerBody {
    incoming: Incoming,
    timer: Timer,
    peer: Arc<str>,
    record: Record,
}

impl PeerBody {
    pub(super) fn new(
        incoming: Incoming,
        deadline: Option<Instant>,
        peer: Arc<str>,
        record: Record,
    ) -> Self {
        Self {
            incoming,
            timer: Timer::new(deadline),
            peer,
            record,
        }
    }
}

impl Body for PeerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame.map(|frame| frame.map_err(|error| lost(&self.peer, error))),
            Poll::Pending if self.timer.poll(cx) => Some(Err(super::too_late(&self.peer))),
            Poll::Pending => return Poll::Pending,
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.record.see(trailers);
                }
            }
            Some(Err(status)) => self.record.end(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Counts a call when it is dropped: answered, failed, or given up.
#[derive(Debug)]
pub(super) struct Record {
    calls: Option<Arc<Calls>>,
    start: Instant,
    code: Option<Code>,
    span: Span,
}

impl Record {
    pub(super) fn start(path: &str, start: Instant, span: Span) -> Self {
        Self {
            calls: methods::outgoing(path).cloned(),
            start,
            code: None,
            span,
        }
    }

    /// Takes the call's status from headers or trailers, if it is there.
    pub(super) fn see(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }

    pub(super) fn end(&mut self, code: Code) {
        self.code = Some(code);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        if let Some(calls) = &self.calls {
            calls.ended(code, self.start.elapsed());
        }
        let name = methods::code_name(code);
        trace::attribute(&self.span, "rpc.response.status_code", name);
        // A caller that has heard enough of a stream has not failed.
        if self.code.is_some_and(|code| code != Code::Ok) {
            trace::failed(&self.span, name);
        }
    }
}

/// The status of a call whose connection broke: what HTTP/2 says about it, otherwise UNAVAILABLE.
pub(super) fn lost(peer: &str, error: hyper::Error) -> Status {
    let text = format!("the connection to {peer} was lost: {error}");
    match Status::from_error(Box::new(error)) {
        status if status.code() == Code::Unknown => Status::unavailable(text),
        status => status,
    }
}
