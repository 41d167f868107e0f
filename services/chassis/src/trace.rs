//! W3C trace context through every hop. Without a collector the incoming `traceparent` is handed on unchanged;
//! with one, each hop is a span of its own. Names and attributes follow OpenTelemetry's semantic conventions; logs show
//! less of a span, and nothing is made for a collector that is not there.

mod announced;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderValue};
pub use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tokio::time::Instant;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

pub use announced::{Announced, announce};
pub(crate) use announced::{Ids, set_tracer};

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

/// Whether spans are exported. What is only there for a collector asks first.
pub fn exporting() -> bool {
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
        // Fails only if the span is filtered out.
        drop(span.set_parent(extract(traceparent)));
    }
}

/// The name that a span is exported with, and attributes that are for the collector alone. After [`set_parent`].
pub fn describe<const N: usize>(
    span: &Span,
    name: impl FnOnce() -> String,
    attributes: impl FnOnce() -> [KeyValue; N],
) {
    if exporting() {
        for KeyValue { key, value, .. } in attributes() {
            span.set_attribute(key, value);
        }
        span.context().span().update_name(name());
    }
}

/// An attribute that is known only later.
pub fn attribute(span: &Span, key: &'static str, value: impl Into<opentelemetry::Value>) {
    if exporting() {
        span.set_attribute(key, value);
    }
}

/// What the span stands for has failed. `error_type` is of few values: a code, a reason.
pub fn failed(span: &Span, error_type: impl Into<opentelemetry::Value>) {
    if exporting() {
        span.set_attribute("error.type", error_type);
        span.set_status(Status::error(""));
    }
}

/// The `traceparent` for what is done because of `span`; what the work itself is part of, where spans are not exported.
pub fn within(span: &Span) -> Option<String> {
    span.in_scope(current)
}

fn extract(traceparent: &str) -> opentelemetry::Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    // Not on top of what this thread happens to be at.
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &carrier)
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
    of_span(&Span::current()).or_else(inherited)
}

/// The header that continues a span; `None` where spans are not exported.
pub(crate) fn of_span(span: &Span) -> Option<HeaderValue> {
    if !exporting() {
        return None;
    }
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    let text = carrier.get(TRACEPARENT)?;
    HeaderValue::from_str(text).ok()
}

/// The span of a call that is made for the request being served, or for what `sent` already says; none where spans are not
/// exported.
pub(crate) fn client(sent: Option<&HeaderValue>) -> Span {
    if !exporting() {
        return Span::none();
    }
    let served = Span::current();
    let parent = match sent {
        Some(sent) => Some(sent.clone()),
        None if served.context().span().span_context().is_valid() => None,
        None => inherited(),
    };
    let span = tracing::info_span!("rpc", "otel.kind" = "client");
    if let Some(parent) = parent.as_ref().and_then(|parent| parent.to_str().ok()) {
        set_parent(&span, parent);
    }
    span
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
