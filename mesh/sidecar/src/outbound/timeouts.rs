//! The layer that cuts requests off: the whole of one, its response, or one that stands still.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};
use tower::Layer;

use super::overrides::Overrides;
use crate::error::ProxyError;
use crate::http::request_body::Progress;
use crate::http::{Request, Response, Serve};
use crate::policy::outbound::Timeouts;

/// Makes [`WithTimeouts`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeoutsLayer(pub(crate) Timeouts);

/// Cuts requests off.
#[derive(Debug)]
pub(crate) struct WithTimeouts<S> {
    inner: S,
    timeouts: Timeouts,
}

impl<S> Layer<S> for TimeoutsLayer {
    type Service = WithTimeouts<S>;

    fn layer(&self, inner: S) -> WithTimeouts<S> {
        WithTimeouts {
            inner,
            timeouts: self.0,
        }
    }
}

impl<S: Serve> Serve for WithTimeouts<S> {
    async fn call(&self, mut request: Request) -> Result<Response, ProxyError> {
        let timeouts = match request.extensions().get::<Overrides>() {
            Some(overrides) => overrides.timeouts(self.timeouts),
            None => self.timeouts,
        };
        if timeouts == Timeouts::default() {
            return self.inner.call(request).await;
        }
        let progress = Arc::new(Progress::new(Instant::now()));
        request.body_mut().watch(Arc::clone(&progress));
        let mut timers = Box::new(Timers::new(timeouts, progress));
        let result = tokio::select! {
            biased;
            result = self.inner.call(request) => result,
            // Said before the inner future is dropped: it is the endpoint that was too slow.
            error = std::future::poll_fn(|cx| {
                timers.poll_expired(cx).map(|error| {
                    timers.progress.set_timed_out(true);
                    error
                })
            }) => Err(error),
        };
        result.map(|mut response| {
            timers.touch();
            response.body_mut().limit(timers);
            response
        })
    }
}

/// The clocks of one request.
#[derive(Debug)]
pub(crate) struct Timers {
    timeouts: Timeouts,
    start: Instant,
    sent: Option<Instant>,
    progress: Arc<Progress>,
    sleep: Pin<Box<Sleep>>,
}

impl Timers {
    fn new(timeouts: Timeouts, progress: Arc<Progress>) -> Self {
        let start = Instant::now();
        let first = timeouts
            .request
            .or(timeouts.idle)
            .or(timeouts.response)
            .unwrap_or_default();
        Self {
            timeouts,
            start,
            sent: None,
            progress,
            sleep: Box::pin(tokio::time::sleep_until(start + first)),
        }
    }

    /// A frame went by.
    pub(crate) fn touch(&self) {
        if self.timeouts.idle.is_some() {
            self.progress.touch();
        }
    }

    /// Ready once one of them has run out.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        loop {
            let (deadline, error) = self.next(cx);
            let Some(deadline) = deadline else {
                return Poll::Pending;
            };
            if self.sleep.deadline() != deadline {
                self.sleep.as_mut().reset(deadline);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Frames may have gone by since this deadline was worked out.
            if self
                .next(cx)
                .0
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                return Poll::Ready(error);
            }
        }
    }

    fn next(&mut self, cx: &Context<'_>) -> (Option<Instant>, ProxyError) {
        let request = self
            .timeouts
            .request
            .map(|time| (self.start + time, ProxyError::RequestTimeout(time)));
        let response = self.timeouts.response.and_then(|time| {
            if self.sent.is_none() && self.progress.poll_ended(cx) {
                self.sent = Some(self.progress.last().max(self.start));
            }
            Some((self.sent? + time, ProxyError::ResponseTimeout(time)))
        });
        let idle = self
            .timeouts
            .idle
            .map(|time| (self.progress.last() + time, ProxyError::IdleTimeout(time)));
        let first = [request, response, idle]
            .into_iter()
            .flatten()
            .min_by_key(|(deadline, _)| *deadline);
        match first {
            Some((deadline, error)) => (Some(deadline), error),
            None => (None, ProxyError::NoRoute),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{RequestBody, ResponseBody};
    use std::time::Duration;

    struct After(Duration);

    impl Serve for After {
        async fn call(&self, request: Request) -> Result<Response, ProxyError> {
            tokio::time::sleep(self.0).await;
            drop(request);
            Ok(Response::new(ResponseBody::empty()))
        }
    }

    async fn call(timeouts: Timeouts, takes: Duration) -> Result<Response, ProxyError> {
        TimeoutsLayer(timeouts)
            .layer(After(takes))
            .call(Box::new(http::Request::new(RequestBody::empty())))
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn each_timeout_says_which_it_was() {
        let ms = Duration::from_millis;
        let request = Timeouts {
            request: Some(ms(10)),
            ..Timeouts::default()
        };
        assert!(call(request, ms(9)).await.is_ok());
        assert!(matches!(
            call(request, ms(11)).await,
            Err(ProxyError::RequestTimeout(_))
        ));
        let response = Timeouts {
            response: Some(ms(10)),
            ..Timeouts::default()
        };
        assert!(call(response, ms(9)).await.is_ok());
        assert!(matches!(
            call(response, ms(11)).await,
            Err(ProxyError::ResponseTimeout(_))
        ));
        let idle = Timeouts {
            idle: Some(ms(10)),
            request: Some(ms(100)),
            ..Timeouts::default()
        };
        assert!(matches!(
            call(idle, ms(50)).await,
            Err(ProxyError::IdleTimeout(_))
        ));
        assert!(call(Timeouts::default(), ms(100_000)).await.is_ok());
    }
}
