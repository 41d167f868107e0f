//! The size limit of a request's messages, applied as soon as a message says how long it is. It holds per message, so
//! that a stream may go on for ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::problem::Domain;

#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageLimitLayer {
    limit: usize,
}

impl MessageLimitLayer {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for MessageLimitLayer {
    type Service = MessageLimit<S>;

    fn layer(&self, inner: S) -> MessageLimit<S> {
        MessageLimit {
            inner,
            limit: self.limit,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct MessageLimit<S> {
    inner: S,
    limit: usize,
}

impl<S, B> Service<Request<B>> for MessageLimit<S>
where
    S: Service<Request<LimitedBody<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let frames = Frames {
            limit: self.limit,
            header: [0; HEADER],
            seen: 0,
            left: 0,
        };
        self.inner
            .call(request.map(|inner| LimitedBody { inner, frames }))
    }
}

const HEADER: usize = 5;

/// Follows gRPC's framing: one byte of flags, four bytes of length, the message.
#[derive(Debug)]
struct Frames {
    limit: usize,
    header: [u8; HEADER],
    seen: usize,
    left: usize,
}

impl Frames {
    fn check(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.left > 0 {
                let skip = self.left.min(data.len());
                data.advance(skip);
                self.left -= skip;
                continue;
            }
            self.header[self.seen] = data[0];
            data.advance(1);
            self.seen += 1;
            if self.seen == HEADER {
                let [_, length @ ..] = self.header;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.seen = 0;
                if self.left > self.limit {
                    let text = format!(
                        "the request message has {} bytes, at most {} are accepted (--max-request-bytes): send less",
                        self.left, self.limit
                    );
                    return Err(Domain("chassis.sagamesh")
                        .problem(Code::ResourceExhausted, "REQUEST_TOO_LARGE", text)
                        .into());
                }
            }
        }
        Ok(())
    }
}

pin_project! {
    pub(crate) struct LimitedBody<B> {
        #[pin]
        inner: B,
        frames: Frames,
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        Poll::Ready(match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => {
                let checked = frame
                    .data_ref()
                    .map_or(Ok(()), |data| this.frames.check(data));
                Some(checked.map(|()| frame).map_err(Into::into))
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).expect("short").to_be_bytes());
        bytes.resize(HEADER + length, 7);
        bytes
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_first_large_message_is_refused(
            lengths in proptest::collection::vec(0_usize..40, 0..8),
            chunk in 1_usize..12,
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|&length| message(length)).collect();
            let mut frames = Frames { limit: 20, header: [0; HEADER], seen: 0, left: 0 };
            let refused = bytes.chunks(chunk).any(|chunk| frames.check(chunk).is_err());
            prop_assert_eq!(refused, lengths.iter().any(|&length| length > 20));
        }
    }
}
