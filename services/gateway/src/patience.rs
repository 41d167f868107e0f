//! A request's body that must have ended in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::{Code, Status};
use tower::BoxError;

use crate::ERRORS;

/// Longest that the one message of a gRPC request may take to arrive.
const MESSAGE: Duration = Duration::from_secs(10);
/// Longest that a reflection stream may take.
pub(crate) const REFLECTION: Duration = Duration::from_secs(60);

/// For methods that read one message.
pub(crate) async fn message(request: Request, next: Next) -> Response {
    next.run(within(MESSAGE, request)).await
}

/// For reflection: its stream ends when its requests end.
pub(crate) async fn reflection(request: Request, next: Next) -> Response {
    next.run(within(REFLECTION, request)).await
}

fn within(longest: Duration, request: Request) -> Request {
    request.map(|inner| {
        Body::new(Patient {
            inner,
            until: Box::pin(tokio::time::sleep(longest)),
        })
    })
}

struct Patient {
    inner: Body,
    until: Pin<Box<Sleep>>,
}

impl http_body::Body for Patient {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.until.as_mut().poll(cx).is_ready() {
            let text = "the request did not arrive in time: send it faster, or open a new stream";
            let problem = ERRORS.problem(Code::DeadlineExceeded, "REQUEST_TIMEOUT", text);
            return Poll::Ready(Some(Err(Status::from(problem).into())));
        }
        Pin::new(&mut self.inner).poll_frame(cx).map_err(Into::into)
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
    use http_body_util::BodyExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let stalled = Body::from_stream(futures_util::stream::pending::<Result<Bytes, BoxError>>());
        let body = within(MESSAGE, Request::new(stalled)).into_body();
        let error = body.collect().await.expect_err("given up");
        let status = Status::from_error(Box::new(error));
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let whole = within(MESSAGE, Request::new(Body::from("hello"))).into_body();
        let whole = whole.collect().await.expect("whole").to_bytes();
        assert_eq!(&whole[..], b"hello");
    }
}
