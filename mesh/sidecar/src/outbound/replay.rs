//! A request body that can be sent again: what went by is kept, up to a limit, and the rest is still to come.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;
use crate::http::RequestBody;

/// The body of all tries of one request.
#[derive(Debug)]
pub(crate) struct Replay(Arc<Mutex<Kept>>);

/// The body of one try.
#[derive(Debug)]
pub(crate) struct ReplayBody {
    kept: Arc<Mutex<Kept>>,
    try_number: usize,
    next: usize,
    trailers_sent: bool,
}

#[derive(Debug)]
struct Kept {
    rest: RequestBody,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    max: usize,
    /// All of it was read.
    ended: bool,
    /// Too much went by, or it failed: it cannot be sent again.
    lost: bool,
    /// The latest try. An earlier one must not take frames from it.
    try_number: usize,
}

impl Replay {
    /// Keeps at most `max` bytes of `body`.
    pub(crate) fn new(body: RequestBody, max: usize) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Mutex::new(Kept {
            rest: body,
            frames: Vec::new(),
            trailers: None,
            bytes: 0,
            max,
            ended,
            lost: false,
            try_number: 0,
        })))
    }

    /// The body of the next try. Earlier ones end here.
    pub(crate) fn next_try(&self) -> RequestBody {
        let try_number = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.try_number += 1;
            kept.try_number
        };
        RequestBody::replay(ReplayBody {
            kept: Arc::clone(&self.0),
            try_number,
            next: 0,
            trailers_sent: false,
        })
    }

    /// Whether another try could send all of it.
    pub(crate) fn can_replay(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).lost
    }

    /// Whether the client has sent all of it.
    pub(crate) fn is_ended(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let mut kept = this.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.try_number != this.try_number {
            return Poll::Ready(Some(Err("another try has begun".into())));
        }
        if let Some(data) = kept.frames.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if kept.ended {
            return Poll::Ready(match &kept.trailers {
                Some(trailers) if !this.trailers_sent => {
                    this.trailers_sent = true;
                    Some(Ok(Frame::trailers(trailers.clone())))
                }
                _ => None,
            });
        }
        let frame = match std::task::ready!(Pin::new(&mut kept.rest).poll_frame(cx)) {
            None => {
                kept.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                kept.lost = true;
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            kept.bytes += data.len();
            if kept.lost || kept.bytes > kept.max {
                kept.lost = true;
                kept.frames = Vec::new();
                this.next = 0;
            } else {
                kept.frames.push(data.clone());
                this.next += 1;
            }
            kept.ended = kept.rest.is_end_stream();
        } else if let Some(trailers) = frame.trailers_ref() {
            kept.trailers = Some(trailers.clone());
            kept.ended = true;
            this.trailers_sent = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.ended
            && self.next >= kept.frames.len()
            && (kept.trailers.is_none() || self.trailers_sent)
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting: usize = kept.frames.iter().skip(self.next).map(Bytes::len).sum();
        let rest = kept.rest.size_hint();
        let mut hint = SizeHint::new();
        match rest.upper() {
            Some(upper) => {
                hint.set_upper(upper + waiting as u64);
                hint.set_lower(rest.lower() + waiting as u64);
            }
            None => hint.set_lower(rest.lower() + waiting as u64),
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn each_try_sees_the_whole_body() {
        let replay = Replay::new(RequestBody::full("hello"), 5);
        let mut first = replay.next_try();
        assert_eq!(
            first.frame().await.unwrap().unwrap().into_data().unwrap(),
            "hello"
        );
        assert!(replay.can_replay() && replay.is_ended());
        let second = replay.next_try();
        assert!(first.frame().await.unwrap().is_err());
        assert_eq!(second.collect().await.unwrap().to_bytes(), "hello");
    }

    #[tokio::test]
    async fn too_large_a_body_goes_once() {
        let replay = Replay::new(RequestBody::full("hello"), 4);
        assert_eq!(
            replay.next_try().collect().await.unwrap().to_bytes(),
            "hello"
        );
        assert!(!replay.can_replay());
    }
}
