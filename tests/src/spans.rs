//! What a collector received, as spans and as the trees that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{span, status};
use prost::Message as _;

/// What a service or a span says of itself.
pub type Attributes = BTreeMap<String, String>;

/// A span, in plain words.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of whoever sent it.
    pub service: String,
    /// All that its sender says of itself.
    pub resource: Attributes,
    /// 32 hexadecimal digits.
    pub trace: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// Of its parent; empty at a root.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// `SERVER`, `CLIENT`, `PRODUCER`, `CONSUMER` or `INTERNAL`.
    pub kind: &'static str,
    /// Whether its status is an error.
    pub failed: bool,
    /// Its attributes.
    pub attributes: Attributes,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
}

impl Span {
    /// An attribute; empty when it is not there.
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// The spans of all requests that a collector got.
///
/// # Errors
/// When one is no export request.
pub fn decode(requests: &[Bytes]) -> anyhow::Result<Vec<Span>> {
    let mut spans = Vec::new();
    for request in requests {
        // One gRPC message: a byte for compression, four for the length.
        ensure!(request.first() == Some(&0), "a request is compressed");
        let message = request.get(5..).context("half a request")?;
        let exported = ExportTraceServiceRequest::decode(message)?;
        for of_process in exported.resource_spans {
            let resource = attributes(of_process.resource.unwrap_or_default().attributes);
            let service = resource.get("service.name").cloned().unwrap_or_default();
            let scopes = of_process.scope_spans.into_iter();
            for span in scopes.flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: service.clone(),
                    resource: resource.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    kind: kind(span.kind()),
                    failed: span
                        .status
                        .is_some_and(|status| status.code() == status::StatusCode::Error),
                    attributes: attributes(span.attributes),
                    name: span.name,
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                });
            }
        }
    }
    spans.sort_by_key(|span| span.start);
    Ok(spans)
}

/// The spans of one trace, by id.
#[derive(Debug)]
pub struct Trace {
    spans: BTreeMap<String, Span>,
}

impl Trace {
    /// The spans of the trace with this id.
    pub fn of(id: &str, spans: &[Span]) -> Self {
        let mine = spans.iter().filter(|span| span.trace == id);
        let spans = mine.map(|span| (span.id.clone(), span.clone())).collect();
        Self { spans }
    }

    /// All spans, in the order of their start.
    pub fn spans(&self) -> Vec<&Span> {
        let mut spans: Vec<_> = self.spans.values().collect();
        spans.sort_by_key(|span| span.start);
        spans
    }

    /// The services that have a part in it.
    pub fn services(&self) -> BTreeSet<&str> {
        self.spans.values().map(|span| &*span.service).collect()
    }

    /// Those whose parent is not there: of a whole trace its root alone.
    pub fn roots(&self) -> Vec<&Span> {
        let spans = self.spans().into_iter();
        spans.filter(|span| self.parent(span).is_none()).collect()
    }

    /// The parent of a span, if it is there.
    pub fn parent(&self, span: &Span) -> Option<&Span> {
        self.spans.get(&span.parent)
    }

    /// The only span of a service with this name.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn only(&self, service: &str, kind: &str, name: &str) -> anyhow::Result<&Span> {
        let all = self.spans().into_iter();
        let found: Vec<_> = all
            .filter(|span| span.service == service && span.kind == kind && span.name == name)
            .collect();
        match found.as_slice() {
            [one] => Ok(one),
            _ => anyhow::bail!(
                "{} {kind} spans `{name}` of {service} in\n{}",
                found.len(),
                self.tree()
            ),
        }
    }

    /// For people: each span below its parent, brothers in the order of their start.
    pub fn tree(&self) -> String {
        let mut text = String::new();
        for root in self.roots() {
            self.draw(root, 0, &mut text);
        }
        text
    }

    fn draw(&self, span: &Span, depth: usize, text: &mut String) {
        let failed = if span.failed { "  ERROR" } else { "" };
        let left = format!("{:indent$}{}", "", span.name, indent = 2 * depth);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{left:<64} {:<9}{}{failed}", span.kind, span.service);
        for child in self.spans() {
            if child.parent == span.id {
                self.draw(child, depth + 1, text);
            }
        }
    }
}

fn kind(kind: span::SpanKind) -> &'static str {
    match kind {
        span::SpanKind::Server => "SERVER",
        span::SpanKind::Client => "CLIENT",
        span::SpanKind::Producer => "PRODUCER",
        span::SpanKind::Consumer => "CONSUMER",
        span::SpanKind::Internal | span::SpanKind::Unspecified => "INTERNAL",
    }
}

fn attributes(list: Vec<KeyValue>) -> Attributes {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = list.into_iter();
    pairs.map(|pair| (pair.key, text(pair.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
