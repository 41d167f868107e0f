//! W3C trace context through every hop. Without a collector the incoming `traceparent` is handed on unchanged;
//! with one, each hop is a span of its own.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tokio::time::Instant;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header that carries a trace between processes.
pub const TRACEPARENT: &str = "traceparent";

/// What a request being served hands on to the calls made for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) deadline: Option<Instant>,
    pub(crate) traceparent: Option<HeaderValue>,
}

tokio::task_local! {
    pub(crate) static CONTEXT: Context;
}

/// Whether spans are exported: only then do they have ids of their own.
static EXPORTING: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_exporting() {
    EXPORTING.store(true, Ordering::Relaxed);
}

pub(crate) fn exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

/// The `traceparent` for work that is done for the request being served: put it into messages that outlive it.
pub fn current() -> Option<String> {
    header()?.to_str().ok().map(str::to_owned)
}

/// Runs `future` as part of the trace in `traceparent` (as [`current`] gave it; an invalid one is ignored).
pub async fn scope<F: Future>(traceparent: Option<&str>, future: F) -> F::Output {
    let traceparent = traceparent
        .and_then(|text| HeaderValue::from_str(text).ok())
        .filter(is_valid);
    let deadline = crate::deadline::current();
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

/// Makes `span` a child of the trace in `traceparent`, if spans are exported.
pub fn set_parent(span: &Span, traceparent: &str) {
    if exporting() {
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
        // Fails only if the span is filtered out.
        drop(span.set_parent(TraceContextPropagator::new().extract(&carrier)));
    }
}

/// A new root `traceparent` from two random numbers, for an edge that starts traces.
pub fn new_root(entropy: &dyn crate::env::Entropy) -> String {
    let (high, low, span) = (
        entropy.next_u64(),
        entropy.next_u64() | 1,
        entropy.next_u64() | 1,
    );
    format!("00-{high:016x}{low:016x}-{span:016x}-01")
}

/// Whether this is a `traceparent` that would be handed on.
pub fn is_traceparent(text: &str) -> bool {
    HeaderValue::from_str(text).is_ok_and(|value| is_valid(&value))
}

/// The header to send to the next hop.
pub(crate) fn header() -> Option<HeaderValue> {
    if exporting() {
        let context = Span::current().context();
        if context.span().span_context().is_valid() {
            let mut carrier = HashMap::new();
            TraceContextPropagator::new().inject_context(&context, &mut carrier);
            return carrier
                .get(TRACEPARENT)
                .and_then(|text| HeaderValue::from_str(text).ok());
        }
    }
    inherited()
}

/// What the request being served brought.
pub(crate) fn inherited() -> Option<HeaderValue> {
    CONTEXT
        .try_with(|context| context.traceparent.clone())
        .ok()
        .flatten()
}

/// The valid `traceparent` of a request.
pub(crate) fn of_request(headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get(TRACEPARENT)
        .filter(|value| is_valid(value))
        .cloned()
}

/// Version 00: `00-<32 hex>-<16 hex>-<2 hex>`, ids not zero.
fn is_valid(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let not_zero = |part: &[u8]| part.iter().any(|&byte| byte != b'0');
    bytes.len() == 55
        && bytes.starts_with(b"00-")
        && bytes[35] == b'-'
        && bytes[52] == b'-'
        && hex(&bytes[3..35])
        && hex(&bytes[36..52])
        && hex(&bytes[53..])
        && not_zero(&bytes[3..35])
        && not_zero(&bytes[36..52])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_headers_are_handed_on() {
        let good = new_root(&crate::env::OsEntropy);
        assert!(
            is_valid(&HeaderValue::from_str(&good).expect("ascii")),
            "{good}"
        );
        let zero = "00-00000000000000000000000000000000-0000000000000001-01";
        for bad in [
            "",
            "00-1-2-3",
            zero,
            &good.to_uppercase(),
            &format!("{good}0"),
            &good.replacen("00-", "ff-", 1),
        ] {
            if bad != good {
                assert!(
                    !is_valid(&HeaderValue::from_str(bad).expect("ascii")),
                    "{bad}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_scope_sets_what_is_handed_on() {
        assert_eq!(current(), None);
        let parent = new_root(&crate::env::OsEntropy);
        assert_eq!(
            scope(Some(&parent), async { current() }).await,
            Some(parent)
        );
        assert_eq!(scope(Some("garbage"), async { current() }).await, None);
    }
}
