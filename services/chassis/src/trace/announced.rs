//! Spans of what outlives a request, and perhaps the process: its id is handed on and kept at the beginning, and the span
//! itself is made at the end, by whoever is there then.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::Context;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _,
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer};

use super::{KeyValue, exporting, extract};
use crate::env::Entropy;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

thread_local! {
    /// The id of the next span of this thread, if it has one already.
    static NEXT: Cell<Option<SpanId>> = const { Cell::new(None) };
}

pub(crate) fn set_tracer(tracer: SdkTracer) {
    // The first one stays, like the subscriber.
    drop(TRACER.set(tracer));
}

/// Random ids, but for spans that were announced.
#[derive(Debug, Default)]
pub(crate) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        self.0.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.take().unwrap_or_else(|| self.0.new_span_id())
    }
}

/// Announces a span within `traceparent`: the `traceparent` of what happens within it, and the id of its parent. Both are to be
/// kept. `None` where spans are not exported, or the caller wants none of this trace.
pub fn announce(traceparent: &str, entropy: &dyn Entropy) -> Option<(String, u64)> {
    if !exporting() {
        return None;
    }
    let context = extract(traceparent);
    let span = context.span();
    let parent = span.span_context();
    (parent.is_valid() && parent.is_sampled()).then(|| {
        let own = SpanId::from(entropy.next_u64() | 1);
        let traceparent = format!("00-{}-{own}-01", parent.trace_id());
        (traceparent, u64::from_be_bytes(parent.span_id().to_bytes()))
    })
}

/// A span that was announced and is over.
#[derive(Debug)]
pub struct Announced<'a> {
    /// What it was called to the outside.
    pub name: String,
    /// As it was announced.
    pub traceparent: &'a str,
    /// As it was announced.
    pub parent_span_id: u64,
    /// Unix milliseconds.
    pub start_millis: i64,
    /// Unix milliseconds.
    pub end_millis: i64,
    /// What failed, if it did: of few values.
    pub error_type: Option<&'static str>,
    /// What else is to be said.
    pub attributes: Vec<KeyValue>,
}

impl Announced<'_> {
    /// Exports it.
    pub fn export(self) {
        let Some(tracer) = TRACER.get().filter(|_| exporting()) else {
            return;
        };
        let own = extract(self.traceparent);
        let own = own.span().span_context().clone();
        if !own.is_valid() {
            return;
        }
        let parent = SpanContext::new(
            own.trace_id(),
            SpanId::from(self.parent_span_id),
            own.trace_flags(),
            true,
            Default::default(),
        );
        let mut attributes = self.attributes;
        attributes.extend(
            self.error_type
                .map(|kind| KeyValue::new("error.type", kind)),
        );
        let builder = tracer
            .span_builder(self.name)
            .with_kind(SpanKind::Internal)
            .with_start_time(at(self.start_millis))
            .with_attributes(attributes);
        NEXT.set(Some(own.span_id()));
        let mut span =
            tracer.build_with_context(builder, &Context::new().with_remote_span_context(parent));
        NEXT.set(None);
        if self.error_type.is_some() {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(at(self.end_millis));
    }
}

fn at(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
