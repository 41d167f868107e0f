//! The layer that sends a request again: on the policy's conditions, so often as it says, and only while the body
//! can be sent again. There is no budget, as in Linkerd: the limit is for each request.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body as _;
use rand::RngExt as _;
use tokio::time::Instant;
use tower::Layer;

use super::overrides::Overrides;
use super::replay::Replay;
use crate::error::ProxyError;
use crate::http::request_body::Progress;
use crate::http::{Request, Response, Serve, is_grpc};
use crate::metrics::{Counter, Labels, Registry};
use crate::policy::outbound::{Conditions, Retry};

/// Makes [`WithRetry`].
#[derive(Clone, Debug)]
pub(crate) struct RetryLayer {
    /// The route's retries.
    pub(crate) policy: Option<Retry>,
    /// Counts them.
    pub(crate) metrics: Arc<RetryMetrics>,
}

/// Sends requests again.
#[derive(Debug)]
pub(crate) struct WithRetry<S> {
    inner: S,
    policy: Option<Retry>,
    metrics: Arc<RetryMetrics>,
}

/// How retries went.
#[derive(Debug)]
pub(crate) struct RetryMetrics {
    requests: Counter,
    successes: Counter,
    limit_exceeded: Counter,
    overflow: Counter,
}

impl RetryMetrics {
    /// For the route with these labels.
    pub(crate) fn new(registry: &Registry, grpc: bool, labels: &Labels) -> Self {
        let counter = |grpc_name, http_name, help| {
            registry.counter(if grpc { grpc_name } else { http_name }, help, labels)
        };
        Self {
            requests: counter(
                "outbound_grpc_route_retry_requests_total",
                "outbound_http_route_retry_requests_total",
                "Retries that were sent.",
            ),
            successes: counter(
                "outbound_grpc_route_retry_successes_total",
                "outbound_http_route_retry_successes_total",
                "Retries that succeeded.",
            ),
            limit_exceeded: counter(
                "outbound_grpc_route_retry_limit_exceeded_total",
                "outbound_http_route_retry_limit_exceeded_total",
                "Requests that failed after their last retry.",
            ),
            overflow: counter(
                "outbound_grpc_route_retry_overflow_total",
                "outbound_http_route_retry_overflow_total",
                "Retries that were not sent: no endpoint could take them.",
            ),
        }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = WithRetry<S>;

    fn layer(&self, inner: S) -> WithRetry<S> {
        WithRetry {
            inner,
            policy: self.policy.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

impl<S: Serve> Serve for WithRetry<S> {
    async fn call(&self, request: Request) -> Result<Response, ProxyError> {
        let overridden = request
            .extensions()
            .get::<Overrides>()
            .map(|overrides| overrides.retry(self.policy.as_ref()));
        let policy = match &overridden {
            Some(policy) => policy.as_ref(),
            None => self.policy.as_ref(),
        };
        match policy {
            Some(policy)
                if policy.max_retries > 0
                    && request.body().size_hint().lower() <= policy.max_request_bytes as u64 =>
            {
                // Boxed, so that routes without retries do not carry this future's size.
                Box::pin(self.with_retries(request, policy)).await
            }
            _ => self.inner.call(request).await,
        }
    }
}

impl<S: Serve> WithRetry<S> {
    async fn with_retries(
        &self,
        mut request: Request,
        policy: &Retry,
    ) -> Result<Response, ProxyError> {
        let grpc = is_grpc(request.headers());
        let progress = request.body_mut().take_progress().or_else(|| {
            // To say of a try that it timed out.
            (policy.timeout).map(|_| Arc::new(Progress::new(Instant::now())))
        });
        let (parts, body) = request.into_parts();
        let replay = Replay::new(body, policy.max_request_bytes);
        let mut retries = 0;
        let mut before = None;
        loop {
            let mut body = replay.next_try();
            if let Some(progress) = &progress {
                body.watch(Arc::clone(progress));
            }
            let request = Box::new(http::Request::from_parts(parts.clone(), body));
            let last = retries == policy.max_retries;
            let result = match policy.timeout {
                Some(time) if !last => self.one_try(request, time, progress.as_deref()).await,
                _ => self.inner.call(request).await,
            };
            if let (Err(ProxyError::FailFast(_)), Some(before @ Ok(_))) = (&result, before.take()) {
                // With nobody to ask, what the last one said stands.
                self.metrics.overflow.increment();
                return before;
            }
            let (result, again) = judge(result, grpc, &policy.conditions, &replay).await;
            if !again {
                if retries > 0 && result.is_ok() {
                    self.metrics.successes.increment();
                }
                return result;
            }
            if last {
                self.metrics.limit_exceeded.increment();
                return result;
            }
            if !replay.can_replay() {
                return result;
            }
            before = Some(result);
            self.metrics.requests.increment();
            if let Some(backoff) = &policy.backoff {
                let pause = backoff.delay(
                    u32::try_from(retries).unwrap_or(u32::MAX),
                    rand::rng().random(),
                );
                tokio::time::sleep(pause).await;
            } else {
                tokio::time::sleep(Duration::ZERO).await;
            }
            retries += 1;
        }
    }
}

impl<S: Serve> WithRetry<S> {
    async fn one_try(
        &self,
        request: Request,
        time: Duration,
        progress: Option<&Progress>,
    ) -> Result<Response, ProxyError> {
        let say = |timed_out| {
            if let Some(progress) = progress {
                progress.set_timed_out(timed_out);
            }
        };
        let result = {
            let mut call = pin!(self.inner.call(request));
            let result = tokio::time::timeout(time, &mut call).await;
            // Said before the call is dropped: it is the endpoint that was too slow.
            say(result.is_err());
            result
        };
        // The next try is another one's.
        say(false);
        result.unwrap_or(Err(ProxyError::TryTimeout(time)))
    }
}

/// Whether the policy wants another try after this one.
async fn judge(
    result: Result<Response, ProxyError>,
    grpc: bool,
    conditions: &Conditions,
    replay: &Replay,
) -> (Result<Response, ProxyError>, bool) {
    let mut response = match result {
        Ok(response) => response,
        Err(error) => {
            let again = match &error {
                ProxyError::TryTimeout(_) | ProxyError::FailFast(_) => true,
                other => other.is_refused(),
            };
            return (Err(error), again);
        }
    };
    let status = response.status().as_u16();
    let mut again = conditions
        .http
        .iter()
        .any(|(from, to)| (*from..=*to).contains(&status));
    if grpc && conditions.grpc != 0 {
        let body = response.body_mut();
        // Looking for the status would hold a stream's response back while its client still sends.
        if body.known_grpc_status().is_none() && replay.is_ended() {
            body.peek().await;
        }
        again |= body
            .known_grpc_status()
            .is_some_and(|code| conditions.grpc & (1 << code) != 0);
    }
    (Ok(response), again)
}

#[cfg(test)]
mod tests;
