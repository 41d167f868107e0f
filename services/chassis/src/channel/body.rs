//! The body of a peer's answer, under the deadline of its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::deadline::Timer;

/// The body of a peer's answer: ends with DEADLINE_EXCEEDED when the call's time is over, and with UNAVAILABLE when
/// the connection is lost.
#[derive(Debug)]
pub struct PeerBody {
    incoming: Incoming,
    timer: Timer,
    peer: Arc<str>,
}

impl PeerBody {
    pub(super) fn new(incoming: Incoming, deadline: Option<Instant>, peer: Arc<str>) -> Self {
        Self {
            incoming,
            timer: Timer::new(deadline),
            peer,
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
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                Poll::Ready(frame.map(|frame| frame.map_err(|error| lost(&self.peer, error))))
            }
            Poll::Pending if self.timer.poll(cx) => {
                Poll::Ready(Some(Err(super::too_late(&self.peer))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
