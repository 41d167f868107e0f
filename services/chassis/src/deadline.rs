//! The deadline of the request being served, and how it travels: the REMAINING time goes to the next hop.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, Sleep};

use crate::trace::{self, CONTEXT, Context};

/// The header that carries a deadline between gRPC peers.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The deadline of the request being served, if there is one. Tasks that a handler spawns do not inherit it:
/// give it to them with [`scope`].
pub fn current() -> Option<Instant> {
    CONTEXT.try_with(|context| context.deadline).ok().flatten()
}

/// The time left for the request being served; zero if its deadline has passed.
pub fn remaining() -> Option<Duration> {
    current().map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// How long a handler may wait for something so that its own answer still comes before the deadline; `otherwise` without one.
pub fn patience(otherwise: Duration) -> Duration {
    remaining().map_or(otherwise, |left| left * 4 / 5)
}

/// Runs `future` with this deadline for the calls that it makes (`None`: without one). It is not cut off itself.
pub async fn scope<F: Future>(deadline: Option<Instant>, future: F) -> F::Output {
    let traceparent = trace::inherited();
    CONTEXT
        .scope(
            Context {
                deadline,
                traceparent,
            },
            future,
        )
        .await
}

/// Runs `future` with a deadline this long from now, but never later than the one it is already under.
pub async fn within<F: Future>(timeout: Duration, future: F) -> F::Output {
    let deadline = Instant::now() + timeout;
    scope(
        Some(current().map_or(deadline, |outer| outer.min(deadline))),
        future,
    )
    .await
}

/// Reads a `grpc-timeout` header; `None` if it is not valid.
pub fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Writes a `grpc-timeout` header, in the finest unit that fits into its eight digits.
pub fn header(timeout: Duration) -> HeaderValue {
    let micros = timeout.as_micros();
    let (number, unit) = if micros < 100_000_000 {
        (micros, 'u')
    } else if micros < 100_000_000_000 {
        (micros / 1_000, 'm')
    } else {
        ((micros / 1_000_000).min(99_999_999), 'S')
    };
    HeaderValue::try_from(format!("{number}{unit}"))
        .unwrap_or_else(|_| HeaderValue::from_static("1S"))
}

/// A deadline whose timer is set only when there is something to wait for: most calls are answered at once.
#[derive(Debug)]
pub(crate) enum Timer {
    Never,
    At(Instant),
    Set(Pin<Box<Sleep>>),
}

impl Timer {
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        deadline.map_or(Self::Never, Self::At)
    }

    /// Whether the deadline has passed; otherwise the task is woken when it does.
    pub(crate) fn poll(&mut self, cx: &mut TaskContext<'_>) -> bool {
        if let Self::At(deadline) = self {
            *self = Self::Set(Box::pin(tokio::time::sleep_until(*deadline)));
        }
        match self {
            Self::Set(sleep) => matches!(sleep.as_mut().poll(cx), Poll::Ready(())),
            Self::Never | Self::At(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_there_and_back() {
        for millis in [0, 1, 999, 5_000, 99_999, 100_000, 86_400_000] {
            let timeout = Duration::from_millis(millis);
            assert_eq!(parse(&header(timeout)), Some(timeout));
        }
        assert_eq!(
            parse(&header(Duration::MAX)),
            Some(Duration::from_secs(99_999_999))
        );
    }

    #[test]
    fn garbage_is_no_timeout() {
        for text in ["", "S", "5", "5X", "123456789S", "-1S", "1.5S", "é"] {
            assert_eq!(
                HeaderValue::from_str(text).ok().as_ref().and_then(parse),
                None,
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn inner_deadlines_never_outlive_outer_ones() {
        assert_eq!(remaining(), None);
        within(Duration::from_secs(50), async {
            let outer = current();
            assert!(outer.is_some());
            within(Duration::from_secs(90), async {
                assert_eq!(current(), outer)
            })
            .await;
            within(Duration::from_secs(1), async {
                assert!(current() < outer && current().is_some())
            })
            .await;
            scope(None, async { assert_eq!(remaining(), None) }).await;
        })
        .await;
    }
}
