//! The traces of orders that end well and badly.

use std::collections::{BTreeMap, BTreeSet};

use sagamesh_tests::collector::Collector;
use sagamesh_tests::secrets::Secrets;
use sagamesh_tests::spans::{self, Span, Trace};

use crate::{CUSTOMER, EMAIL, assert_below, place, system, until, until_several};

const PLACE: &str = "shop.orders.v1.OrderService/PlaceOrder";
const WATCH: &str = "shop.orders.v1.OrderService/WatchOrder";
const CHECK: &str = "shop.inventory.v1.InventoryService/CheckAvailability";
const START: &str = "saga.v1.SagaService/StartSaga";
const REQUEST: (&str, &str, &str) = ("gateway", "SERVER", "POST /v1/orders");
const SAGA: (&str, &str, &str) = ("coordinator", "INTERNAL", "saga place-order");
const FEED: (&str, &str, &str) = ("notifications", "CONSUMER", "process orders.feed");
const MAIL: (&str, &str, &str) = ("notifications", "PRODUCER", "send mail");

/// Everything that spans of an order say; the last ones are this system's own.
const ATTRIBUTES: [&str; 33] = [
    "error.type",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "network.protocol.name",
    "network.protocol.version",
    "url.path",
    "url.scheme",
    "rpc.system.name",
    "rpc.method",
    "rpc.response.status_code",
    "server.address",
    "server.port",
    "messaging.system",
    "messaging.operation.type",
    "messaging.operation.name",
    "messaging.destination.name",
    "messaging.consumer.group.name",
    "messaging.message.id",
    "messaging.message.conversation_id",
    "ledger.event.type",
    "request_id",
    "saga.action",
    "saga.attempt",
    "saga.definition",
    "saga.direction",
    "saga.id",
    "saga.outcome",
    "saga.state",
    "saga.step",
    "service.name",
    "service.version",
    "service.instance.id",
];

#[tokio::test]
async fn one_order_is_one_trace() -> anyhow::Result<()> {
    const CALLERS: &str = "0af7651916cd43dd8448eb211c80319c";
    const REJECTED: &str = "1bf7651916cd43dd8448eb211c80319c";
    const UNSAMPLED: &str = "2cf7651916cd43dd8448eb211c80319c";
    let parent = |trace: &str, flags: &str| format!("00-{trace}-b7ad6b7169203331-{flags}");

    let collector = Collector::start().await?;
    let system = system(&collector).await?;
    let token = system.token(CUSTOMER).await?;
    let callers = parent(CALLERS, "01");
    let wait = "wait=60";
    let placed = place(&system, &token, "pm_ok", Some(&callers), wait).await?;
    assert_eq!(placed.json["status"], "CONFIRMED", "{}", placed.text);
    let own = place(&system, &token, "pm_ok", None, wait).await?;
    assert_eq!(own.json["status"], "CONFIRMED", "{}", own.text);
    let rejected = parent(REJECTED, "01");
    let refused = place(&system, &token, "pm_declined", Some(&rejected), wait).await?;
    assert_eq!(refused.json["status"], "REJECTED", "{}", refused.text);
    let unsampled = parent(UNSAMPLED, "00");
    let quiet = place(&system, &token, "pm_ok", Some(&unsampled), wait).await?;
    assert_eq!(quiet.json["status"], "CONFIRMED", "{}", quiet.text);

    let own_id = own.json["order_id"].as_str().unwrap_or_default();
    let is_own_saga =
        |span: &Span| span.name == "saga place-order" && span.get("saga.id") == own_id;
    let own_trace = until(&collector, "the order's saga", is_own_saga)
        .await?
        .trace;
    // A receipt, and the news of how it ended.
    for trace in [CALLERS, &own_trace, REJECTED] {
        let is_mail = |span: &Span| span.trace == trace && span.name == "send mail";
        until_several(&collector, "mails", 2, is_mail).await?;
    }
    // What is still held is sent at the end.
    drop(system.stop().await?);
    let received = collector.received();
    let spans = spans::decode(&received)?;

    for (trace, callers) in [(CALLERS, Some("b7ad6b7169203331")), (&own_trace, None)] {
        let trace = Trace::of(trace, &spans);
        println!("{}", trace.tree());
        completed(&trace);
        conventions(&trace);
        begins(&trace, callers);
        let failed: Vec<_> = trace
            .spans()
            .into_iter()
            .filter(|span| span.failed)
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
    let trace = Trace::of(REJECTED, &spans);
    println!("{}", trace.tree());
    undone(&trace);
    conventions(&trace);
    begins(&trace, Some("b7ad6b7169203331"));
    // The caller decides whether there are spans, at every hop.
    assert_eq!(Trace::of(UNSAMPLED, &spans).tree(), "");

    processes(&spans);
    let mut secrets = Secrets::default();
    for value in [CUSTOMER, EMAIL, "kim.t5r4c3", "pm_ok", "pm_declined"] {
        secrets.add(value, value);
    }
    secrets.add_jwt("a token", &token);
    let found: Vec<_> = received
        .iter()
        .flat_map(|request| secrets.found_in("an exported span", request))
        .collect();
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

/// One root: the request at the gateway, which has the caller's span for a parent if it brought one.
fn begins(trace: &Trace, callers: Option<&str>) {
    let roots = trace.roots();
    let [root] = roots.as_slice() else {
        panic!("{} roots in\n{}", roots.len(), trace.tree());
    };
    assert_eq!((&*root.service, root.kind, &*root.name), REQUEST);
    assert_eq!(root.parent, callers.unwrap_or_default());
    for span in trace.spans() {
        assert!(
            span.start >= root.start && span.end >= span.start,
            "{span:?}"
        );
    }
}

fn services() -> BTreeSet<&'static str> {
    let names = [
        "coordinator",
        "gateway",
        "inventory",
        "notifications",
        "orders",
        "payments",
    ];
    names.into()
}

fn accepted(trace: &Trace) {
    // The sidecars in between hand the context on as it is, and make no spans.
    assert_eq!(trace.services(), services(), "{}", trace.tree());
    for (caller, server, method, above) in [
        ("gateway", "orders", PLACE, REQUEST),
        ("gateway", "orders", WATCH, REQUEST),
        ("orders", "inventory", CHECK, ("orders", "SERVER", PLACE)),
        ("orders", "coordinator", START, ("orders", "SERVER", PLACE)),
    ] {
        assert_below(trace, (caller, "CLIENT", method), above);
        assert_below(
            trace,
            (server, "SERVER", method),
            (caller, "CLIENT", method),
        );
    }
    assert_below(trace, SAGA, ("coordinator", "SERVER", START));
}

/// The commands of the saga are its children, and the saga lasts as long as they do.
fn commands(trace: &Trace, commands: &[(&str, &str)]) {
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    for (service, command) in commands {
        assert_below(trace, (service, "CONSUMER", command), SAGA);
        *expected.entry((*command).to_owned()).or_default() += 1;
    }
    let saga = trace.only(SAGA.0, SAGA.1, SAGA.2).expect("one saga");
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for span in trace.spans() {
        if span.parent == saga.id {
            *found.entry(span.name.clone()).or_default() += 1;
            assert_eq!(span.get("saga.id"), saga.get("saga.id"));
            // The clock is read in milliseconds for the saga.
            let slack = 2_000_000;
            assert!(span.start + slack >= saga.start, "{}", trace.tree());
        }
    }
    assert!(found.keys().eq(expected.keys()), "{}", trace.tree());
    assert_eq!(saga.get("saga.definition"), "place-order");
}

fn completed(trace: &Trace) {
    accepted(trace);
    commands(
        trace,
        &[
            ("orders", "execute orders.LockOrder"),
            ("inventory", "execute inventory.ReserveStock"),
            ("payments", "execute payments.AuthorizePayment"),
            ("payments", "execute payments.CapturePayment"),
            ("orders", "execute orders.ConfirmOrder"),
            ("inventory", "execute inventory.CommitStock"),
            ("notifications", "execute notifications.SendConfirmation"),
        ],
    );
    // Of the order's log the feed's reader knows the trace, and its mail hangs off the feed; the other off the saga's step.
    assert_below(trace, FEED, ("orders", "SERVER", PLACE));
    let confirmation = (
        "notifications",
        "CONSUMER",
        "execute notifications.SendConfirmation",
    );
    mails(trace, &[("receipt", FEED), ("confirmation", confirmation)]);
}

fn undone(trace: &Trace) {
    const REJECT: (&str, &str, &str) = ("orders", "CONSUMER", "compensate orders.RejectOrder");
    accepted(trace);
    commands(
        trace,
        &[
            ("orders", "execute orders.LockOrder"),
            ("inventory", "execute inventory.ReserveStock"),
            ("payments", "execute payments.AuthorizePayment"),
            ("inventory", "compensate inventory.ReleaseStock"),
            ("orders", "compensate orders.RejectOrder"),
        ],
    );
    // Of the order's two events one is from its placing, the other from its undoing.
    let mut feed: Vec<_> = trace.spans();
    feed.retain(|span| span.name == FEED.2);
    let found: BTreeSet<_> = feed
        .iter()
        .map(|span| {
            let above = trace.parent(span).map_or("", |above| &above.name);
            (span.get("ledger.event.type"), above)
        })
        .collect();
    let expected = [
        ("shop.orders.v1.OrderPlaced", PLACE),
        ("shop.orders.v1.OrderRejected", REJECT.2),
    ];
    assert_eq!(found, expected.into(), "{}", trace.tree());
    mails(trace, &[("receipt", FEED), ("rejection", FEED)]);
    // What failed is the saga; whoever said no has not.
    let failed: Vec<_> = trace
        .spans()
        .into_iter()
        .filter(|span| span.failed)
        .collect();
    let [saga] = failed.as_slice() else {
        panic!("{failed:?}");
    };
    assert_eq!((&*saga.service, saga.kind, &*saga.name), SAGA);
    assert_eq!(saga.get("error.type"), "COMPENSATED");
    let said_no = trace
        .only("payments", "CONSUMER", "execute payments.AuthorizePayment")
        .expect("one");
    assert_eq!(said_no.get("saga.outcome"), "rejected");
}

/// Which mails there are, and what each hangs off.
fn mails(trace: &Trace, expected: &[(&str, (&str, &str, &str))]) {
    let mut found = BTreeMap::new();
    for span in trace.spans().into_iter().filter(|span| span.name == MAIL.2) {
        let kind = span.get("messaging.message.id").rsplit('.').next();
        let above = trace
            .parent(span)
            .map(|above| (&*above.service, above.kind, &*above.name));
        found.insert(kind.unwrap_or_default(), above.unwrap_or_default());
    }
    let expected: BTreeMap<_, _> = expected.iter().copied().collect();
    assert_eq!(found, expected, "{}", trace.tree());
}

/// Names, kinds and attributes as OpenTelemetry's semantic conventions have them.
fn conventions(trace: &Trace) {
    for span in trace.spans() {
        for key in span.attributes.keys() {
            assert!(ATTRIBUTES.contains(&&**key), "{key} in {span:?}");
        }
        let is = |key: &str, value: &str| assert_eq!(span.get(key), value, "{key} in {span:?}");
        match span.kind {
            "SERVER" if span.service == "gateway" => {
                is("http.request.method", "POST");
                is("http.route", "/v1/orders");
                is("http.response.status_code", "201");
                is("url.scheme", "http");
                is("url.path", "/v1/orders");
                is("network.protocol.version", "1.1");
            }
            "SERVER" | "CLIENT" => {
                is("rpc.system.name", "grpc");
                is("rpc.method", &span.name);
                // The gateway hangs up on a watch that has told it the end.
                if span.name != WATCH {
                    is("rpc.response.status_code", "OK");
                }
                if span.kind == "CLIENT" {
                    let address = span.get("server.address");
                    assert!(address.ends_with(".sagamesh.svc.cluster.local"), "{span:?}");
                    is("server.port", "50051");
                }
            }
            "CONSUMER" | "PRODUCER" => {
                let kind = if span.kind == "PRODUCER" {
                    "send"
                } else {
                    "process"
                };
                is("messaging.operation.type", kind);
                let (operation, destination) = span.name.split_once(' ').unwrap_or_default();
                is("messaging.operation.name", operation);
                is("messaging.destination.name", destination);
                assert!(!span.get("messaging.system").is_empty(), "{span:?}");
                assert!(!span.get("messaging.message.id").is_empty(), "{span:?}");
            }
            _ => assert_eq!((&*span.service, &*span.name), (SAGA.0, SAGA.2)),
        }
    }
}

/// Each process says who it is, and no two are the same.
fn processes(spans: &[Span]) {
    let mut instances: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for span in spans {
        let says = |key: &str| span.resource.get(key).map_or("", String::as_str);
        assert_eq!(says("service.namespace"), "sagamesh");
        assert_eq!(says("service.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(says("telemetry.sdk.language"), "rust");
        assert_eq!(says("service.instance.id").len(), 36, "{:?}", span.resource);
        let of_service = instances.entry(&span.service).or_default();
        of_service.insert(says("service.instance.id"));
    }
    // The mesh's control plane has traces of its own.
    let of_services = instances.keys().copied().filter(|name| *name != "meshd");
    assert!(of_services.eq(services()), "{instances:?}");
    assert!(
        instances.values().all(|ids| ids.len() == 1),
        "{instances:?}"
    );
    let different: BTreeSet<_> = instances.values().flatten().collect();
    assert_eq!(different.len(), instances.len());
}
