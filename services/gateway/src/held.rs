//! A body that keeps something until it has ended or was given up: a place, a count.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body::{Frame, SizeHint};

/// The same answer, keeping `what` as long as its body is being sent.
pub(crate) fn held(response: Response, what: impl Send + Unpin + 'static) -> Response {
    response.map(|inner| Body::new(Held { inner, _what: what }))
}

struct Held<T> {
    inner: Body,
    _what: T,
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    // So that an answer whose length is known says so.
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn it_is_kept_until_the_body_is_gone_and_the_length_stays_known() {
        let (kept, mut gone) = tokio::sync::oneshot::channel::<()>();
        let response = held(Response::new(Body::from("hello")), kept);
        assert_eq!(response.body().size_hint().exact(), Some(5));
        assert!(
            gone.try_recv()
                .is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty)
        );
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(&bytes[..], b"hello");
        assert!(gone.await.is_err(), "dropped with the body");
    }
}
