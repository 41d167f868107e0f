//! A processor behind a limit and a circuit breaker.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chassis::{Breaker, Env};

use super::{Processor, ProcessorError, Request};
use crate::domain::{Answer, Operation};

/// Consecutive failures that open the breaker.
const FAILURES: u32 = 5;

/// A call that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The breaker is open: it was not even tried.
    #[error("the payment processor failed {FAILURES} times in a row: try again in {0:?}")]
    Open(Duration),
    /// It surely did nothing.
    #[error("the payment processor is not available")]
    Unavailable,
    /// It may or may not have done it.
    #[error("the payment processor did not answer within {0:?}")]
    NoAnswer(Duration),
}

/// A processor behind a limit and a circuit breaker. Clones share the breaker. A "no" is an answer, not a failure.
#[derive(Clone)]
pub struct Guarded {
    processor: Arc<dyn Processor>,
    breaker: Breaker,
    env: Env,
    timeout: Duration,
}

impl Guarded {
    /// Guards `processor`: a call takes at most `timeout`, and an open breaker lets one call probe after `recovery`.
    pub fn new(
        processor: Arc<dyn Processor>,
        env: Env,
        timeout: Duration,
        recovery: Duration,
    ) -> Self {
        Self {
            processor,
            breaker: Breaker::new(FAILURES, recovery),
            env,
            timeout,
        }
    }

    /// Does the work of a key once; within `limit`, if that is shorter.
    ///
    /// # Errors
    /// If there was no answer.
    pub async fn perform(&self, request: &Request, limit: Duration) -> Result<Answer, CallError> {
        self.call(
            request.operation.name(),
            limit,
            self.processor.perform(request),
        )
        .await
    }

    /// What became of an operation; none if the processor never saw it.
    ///
    /// # Errors
    /// If there was no answer.
    pub async fn status(
        &self,
        payment_id: &str,
        operation: Operation,
        limit: Duration,
    ) -> Result<Option<Answer>, CallError> {
        let key = operation.key(payment_id);
        self.call("status", limit, self.processor.status(&key))
            .await
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<T, ProcessorError>>,
    ) -> Result<T, CallError> {
        let permit = match self.breaker.try_acquire(self.env.clock.now_millis()) {
            Ok(permit) => permit,
            Err(open) => {
                count(operation, "refused");
                return Err(CallError::Open(open.hint(&self.env)));
            }
        };
        let limit = limit.min(self.timeout);
        let started = tokio::time::Instant::now();
        let result = tokio::time::timeout(limit, call).await;
        metrics::histogram!("payments_processor_seconds", "operation" => operation)
            .record(started.elapsed());
        match result {
            Ok(Ok(answer)) => {
                permit.success();
                count(operation, "answered");
                Ok(answer)
            }
            Ok(Err(error)) => {
                permit.failure();
                count(operation, "failed");
                tracing::warn!(operation, %error, "the payment processor failed");
                Err(match error {
                    ProcessorError::Unavailable(_) => CallError::Unavailable,
                    ProcessorError::Lost(_) => CallError::NoAnswer(started.elapsed()),
                })
            }
            Err(_) => {
                permit.failure();
                count(operation, "timeout");
                tracing::warn!(operation, ?limit, "the payment processor did not answer");
                Err(CallError::NoAnswer(limit))
            }
        }
    }
}

fn count(operation: &'static str, result: &'static str) {
    metrics::counter!("payments_processor_calls_total", "operation" => operation, "result" => result).increment(1);
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use sagamesh_api::shop::v1::Money;

    use super::*;

    /// Answers by the last digit of the key: 0 yes, 1 no, 2 unavailable, 3 never.
    struct Scripted;

    impl Processor for Scripted {
        fn perform<'a>(
            &'a self,
            request: &'a Request,
        ) -> BoxFuture<'a, Result<Answer, ProcessorError>> {
            async move {
                match request.key.chars().last() {
                    Some('0') => Ok(Answer::Approved {
                        reference: String::new(),
                    }),
                    Some('1') => Ok(Answer::Declined {
                        reason: "NO".into(),
                        message: String::new(),
                    }),
                    Some('2') => Err(ProcessorError::Unavailable("down".into())),
                    _ => std::future::pending().await,
                }
            }
            .boxed()
        }

        fn status<'a>(
            &'a self,
            _key: &'a str,
        ) -> BoxFuture<'a, Result<Option<Answer>, ProcessorError>> {
            async { Ok(None) }.boxed()
        }
    }

    fn request(key: &str) -> Request {
        Request {
            key: key.into(),
            payment_id: "p".into(),
            operation: Operation::Authorize,
            amount: Money::default(),
            payment_method: "pm_secret".into(),
        }
    }

    #[tokio::test]
    async fn silence_ends_after_the_limit_and_five_failures_open_the_breaker() {
        let most = Duration::from_millis(40);
        let guarded = Guarded::new(
            Arc::new(Scripted),
            Env::system(),
            most,
            Duration::from_secs(60),
        );
        let (limit, long) = (Duration::from_millis(10), Duration::from_secs(60));
        assert!(guarded.perform(&request("0"), long).await.is_ok());
        for _ in 0..7 {
            // A "no" is an answer: it neither opens the breaker nor counts.
            assert!(matches!(
                guarded.perform(&request("1"), long).await,
                Ok(Answer::Declined { .. })
            ));
        }
        assert_eq!(
            guarded.perform(&request("3"), limit).await,
            Err(CallError::NoAnswer(limit))
        );
        assert_eq!(
            guarded.perform(&request("3"), long).await,
            Err(CallError::NoAnswer(most))
        );
        for _ in 0..3 {
            assert_eq!(
                guarded.perform(&request("2"), long).await,
                Err(CallError::Unavailable)
            );
        }
        assert!(matches!(
            guarded.perform(&request("0"), long).await,
            Err(CallError::Open(_))
        ));
        assert!(matches!(
            guarded.status("p", Operation::Void, long).await,
            Err(CallError::Open(_))
        ));
    }

    #[test]
    fn the_payment_method_is_not_shown() {
        assert!(!format!("{:?}", request("0")).contains("pm_secret"));
    }
}
