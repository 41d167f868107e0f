//! One order is one trace, from the request to the mail, through sidecars, saga commands and the feed.

mod orders;
mod restarts;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use sagamesh_tests::collector::Collector;
use sagamesh_tests::spans::{self, Span, Trace};
use sagamesh_tests::{Options, System, rest};
use serde_json::{Value, json};

const CUSTOMER: &str = "customer-t5r4c3";
const EMAIL: &str = "kim.t5r4c3@private.example";
/// The longest that something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A system whose services export to a collector, with tea in stock.
async fn system(collector: &Collector) -> anyhow::Result<System> {
    let url = collector.url().to_owned();
    let system = System::start_with(Options {
        environment: vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.leak()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            // What is logged does not decide what is exported.
            ("RUST_LOG", "warn"),
        ],
        ..Default::default()
    })
    .await?;
    assert!(!system.record()?["mesh"].is_null(), "sidecars are there");
    system.restock("tea", 50, 450).await?;
    Ok(system)
}

fn order(method: &str) -> Value {
    json!({
        "lines": [{"sku": "tea", "quantity": 1}], "currency": "EUR",
        "payment_method": method, "contact_email": EMAIL,
    })
}

/// Places an order as part of a caller's trace, or of none.
async fn place(
    system: &System,
    token: &str,
    method: &str,
    traceparent: Option<&str>,
    prefer: &str,
) -> anyhow::Result<rest::Answer> {
    let mut headers = vec![("prefer", prefer)];
    headers.extend(traceparent.map(|traceparent| ("traceparent", traceparent)));
    let body = Some(order(method).to_string());
    let base = system.gateway()?;
    rest::send(
        Method::POST,
        &base,
        "/v1/orders",
        Some(token),
        &headers,
        body,
    )
    .await
}

/// Waits until the collector has a span.
async fn until(
    collector: &Collector,
    what: &str,
    wanted: impl Fn(&Span) -> bool,
) -> anyhow::Result<Span> {
    until_several(collector, what, 1, wanted)
        .await?
        .pop()
        .context("none of one")
}

/// Waits until the collector has so many spans of a kind.
async fn until_several(
    collector: &Collector,
    what: &str,
    count: usize,
    wanted: impl Fn(&Span) -> bool,
) -> anyhow::Result<Vec<Span>> {
    let begun = Instant::now();
    loop {
        let mut all = spans::decode(&collector.received())?;
        all.retain(&wanted);
        if all.len() >= count {
            return Ok(all);
        }
        anyhow::ensure!(
            begun.elapsed() < PATIENCE,
            "{} of {count} spans came: {what}",
            all.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every span with the child's service, kind and name hangs below one with the parent's, and there is one.
#[track_caller]
fn assert_below(trace: &Trace, child: (&str, &str, &str), parent: (&str, &str, &str)) {
    let is = |span: &Span, (service, kind, name): (&str, &str, &str)| {
        span.service == service && span.kind == kind && span.name == name
    };
    let mut found = 0;
    for span in trace.spans().into_iter().filter(|span| is(span, child)) {
        found += 1;
        let above = trace.parent(span);
        assert!(
            above.is_some_and(|above| is(above, parent)),
            "{child:?} is not below {parent:?} in\n{}",
            trace.tree()
        );
    }
    assert!(found > 0, "no {child:?} in\n{}", trace.tree());
}
