//! A trace goes on where it was when a process dies: its context is on record.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sagamesh_tests::collector::Collector;
use sagamesh_tests::spans::{self, Span, Trace};
use sagamesh_tests::{System, rest};

use crate::{CUSTOMER, PATIENCE, assert_below, place, system, until, until_several};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const SAGA: (&str, &str, &str) = ("coordinator", "INTERNAL", "saga place-order");

fn in_trace(kind: &'static str, name: &'static str) -> impl Fn(&Span) -> bool {
    move |span| span.trace == TRACE && span.kind == kind && span.name == name
}

async fn confirmed(system: &System, token: &str, id: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let answer = rest::get(&system.gateway()?, &format!("/v1/orders/{id}"), Some(token)).await;
        let status = answer.map(|answer| answer.json["status"].clone());
        if matches!(&status, Ok(status) if status == "CONFIRMED") {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "the order is {status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Everything of the trace, once its last mail is sent and the system has ended.
async fn whole(collector: &Collector, system: System) -> anyhow::Result<(Trace, Vec<Span>)> {
    until(collector, "the saga", in_trace(SAGA.1, SAGA.2)).await?;
    until_several(collector, "mails", 2, in_trace("PRODUCER", "send mail")).await?;
    drop(system.stop().await?);
    let spans = spans::decode(&collector.received())?;
    let trace = Trace::of(TRACE, &spans);
    let roots = trace.roots();
    assert_eq!(roots.len(), 1, "{}", trace.tree());
    assert_eq!(roots[0].parent, "b7ad6b7169203331");
    Ok((trace, spans))
}

#[tokio::test]
async fn a_saga_stays_in_its_trace_when_the_coordinator_is_killed() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let system = system(&collector).await?;
    let token = system.token(CUSTOMER).await?;
    // The bank thinks for three seconds: it is under way when the coordinator dies.
    let placed = place(&system, &token, "pm_slow", Some(PARENT), "respond-async").await?;
    assert_eq!(placed.status, 202, "{}", placed.text);
    // What the process has made by then is sent: what it takes with it is not the question here.
    let start = in_trace("SERVER", "saga.v1.SagaService/StartSaga");
    let before = until(&collector, "the saga's start", start).await?;
    let killed = system.kill("coordinator").await?;
    system.until_back("coordinator", killed).await?;
    confirmed(
        &system,
        &token,
        placed.json["order_id"].as_str().unwrap_or_default(),
    )
    .await?;

    let (trace, _) = whole(&collector, system).await?;
    println!("{}", trace.tree());
    for (service, command) in [
        ("orders", "execute orders.LockOrder"),
        ("payments", "execute payments.CapturePayment"),
        ("notifications", "execute notifications.SendConfirmation"),
    ] {
        assert_below(&trace, (service, "CONSUMER", command), SAGA);
    }
    // One process began the saga's span, another one ended it.
    let saga = trace.only(SAGA.0, SAGA.1, SAGA.2)?;
    assert_eq!(saga.parent, before.id);
    let instance = |span: &Span| span.resource.get("service.instance.id").cloned();
    assert_ne!(instance(saga), instance(&before));
    Ok(())
}

#[tokio::test]
async fn an_order_keeps_its_trace_until_its_saga_is_started() -> anyhow::Result<()> {
    const PLACE: &str = "shop.orders.v1.OrderService/PlaceOrder";
    const START: &str = "saga.v1.SagaService/StartSaga";
    let collector = Collector::start().await?;
    let system = system(&collector).await?;
    let token = system.token(CUSTOMER).await?;
    // The order is on record and its saga is owed: the coordinator takes none for now.
    system
        .sagamesh(&["definitions", "pause", "place-order", "--reason", "a test"])
        .await?;
    let placed = place(&system, &token, "pm_ok", Some(PARENT), "respond-async").await?;
    assert_eq!(placed.status, 202, "{}", placed.text);
    until(&collector, "the order's placing", in_trace("SERVER", PLACE)).await?;
    // By then orders waits for seconds before it tries again, so that no try is under way when it dies.
    until_several(&collector, "refused starts", 9, in_trace("CLIENT", START)).await?;
    let killed = system.kill("orders").await?;
    system
        .sagamesh(&["definitions", "resume", "place-order"])
        .await?;
    system.until_back("orders", killed).await?;
    confirmed(
        &system,
        &token,
        placed.json["order_id"].as_str().unwrap_or_default(),
    )
    .await?;

    let (trace, _) = whole(&collector, system).await?;
    println!("{}", trace.tree());
    // All tries are below the request, those of both processes; one of them began the saga.
    assert_below(
        &trace,
        ("orders", "CLIENT", START),
        ("orders", "SERVER", PLACE),
    );
    assert_below(&trace, SAGA, ("coordinator", "SERVER", START));
    let tries: Vec<_> = trace
        .spans()
        .into_iter()
        .filter(|span| span.service == "orders" && span.name == START)
        .collect();
    let processes: BTreeSet<_> = tries
        .iter()
        .map(|span| &span.resource["service.instance.id"])
        .collect();
    assert_eq!(processes.len(), 2, "{tries:?}");
    Ok(())
}
