//! Every state, every command; and the words for any input.

use proptest::prelude::*;
use sagamesh_api::shop::orders::v1::{OrderLine, OrderPlaced, OrderRejected};
use sagamesh_api::shop::v1::Money;

use super::*;

const ORDER: &str = "0198c5f0-0000-7000-8000-000000000001";
const KINDS: [NotificationKind; 4] = [
    NotificationKind::Receipt,
    NotificationKind::Confirmation,
    NotificationKind::Rejection,
    NotificationKind::Refund,
];

fn total() -> Total {
    Total {
        minor_units: 1_999,
        currency: "EUR".to_owned(),
    }
}

fn lines() -> Vec<Line> {
    vec![Line {
        sku: "mug".to_owned(),
        quantity: 2,
        unit_price_minor: 500,
    }]
}

fn note(recipient: &str) -> NotificationRecorded {
    compose(
        NotificationKind::Confirmation,
        ORDER,
        "alice",
        recipient,
        &lines(),
        &total(),
        "",
    )
}

fn after(record: &NotificationRecord, events: &[NotificationEvent]) -> NotificationRecord {
    let mut record = record.clone();
    events.iter().for_each(|event| record.evolve(event));
    record
}

#[test]
fn every_transition_is_as_the_table_says() {
    let nothing = NotificationRecord::default();
    let pending = after(&nothing, &nothing.record(&note("a@b")));
    let recorded = after(&nothing, &nothing.record(&note("")));
    let sent = after(&pending, &pending.sent());
    let failed = after(&pending, &pending.failed("550"));
    use NotificationState::{Failed, Pending, Recorded, Sent, Unspecified};
    for (record, state, after_record, after_sent, after_failed) in [
        (&nothing, Unspecified, Pending, Unspecified, Unspecified),
        (&pending, Pending, Pending, Sent, Failed),
        (&recorded, Recorded, Recorded, Recorded, Recorded),
        (&sent, Sent, Sent, Sent, Sent),
        (&failed, Failed, Failed, Sent, Failed),
    ] {
        assert_eq!(record.state(), state);
        assert_eq!(record.is_owed(), state == Pending);
        assert_eq!(
            after(record, &record.record(&note("a@b"))).state(),
            after_record,
            "record in {state:?}"
        );
        assert_eq!(
            after(record, &record.sent()).state(),
            after_sent,
            "sent in {state:?}"
        );
        let failed = after(record, &record.failed("550"));
        assert_eq!(failed.state(), after_failed, "failed in {state:?}");
        assert!(failed.failed("550").is_empty());
        // Twice is once.
        let once = after(record, &record.sent());
        assert!(once.sent().is_empty());
        assert!(
            after(record, &record.record(&note("a@b")))
                .record(&note("x@y"))
                .is_empty()
        );
    }
    assert_eq!(nothing.describe("id"), None);
    let shown = sent.describe("id").expect("recorded");
    assert_eq!(
        (shown.order_id.as_str(), shown.state(), shown.kind()),
        (ORDER, Sent, NotificationKind::Confirmation)
    );
}

#[test]
fn ids_differ_by_kind_and_order() {
    let mut ids: Vec<_> = KINDS
        .iter()
        .map(|kind| notification_id(ORDER, *kind))
        .collect();
    ids.extend(KINDS.iter().map(|kind| notification_id("other", *kind)));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

#[test]
fn texts_name_the_order_and_the_money() {
    for kind in KINDS {
        let note = compose(
            kind,
            ORDER,
            "alice",
            "a@b",
            &lines(),
            &total(),
            "no more mugs",
        );
        assert!(
            note.subject.contains(ORDER) && note.body.contains(ORDER),
            "{kind:?}"
        );
        assert!(
            note.body.contains("2 x mug")
                && note.body.contains("19.99 EUR")
                && note.body.contains("no more mugs")
        );
        assert_eq!(note.kind(), kind);
    }
    for (minor_units, currency, shown) in [
        (5, "EUR", "0.05 EUR"),
        (1_000_000_000_000, "USD", "10000000000.00 USD"),
        (1_999, "JPY", "1999 JPY"),
        (1_999, "KWD", "1.999 KWD"),
        (-5, "EUR", "-0.05 EUR"),
        (i64::MIN, "EUR", "-92233720368547758.08 EUR"),
    ] {
        let total = Total {
            minor_units,
            currency: currency.to_owned(),
        };
        let body = compose(NotificationKind::Receipt, ORDER, "", "", &[], &total, "").body;
        assert!(body.contains(&format!("Total: {shown}\n")), "{body}");
    }
}

#[test]
fn news_of_orders_become_notifications() {
    let placed = OrderPlaced {
        order_id: ORDER.to_owned(),
        customer_id: "alice".to_owned(),
        lines: vec![OrderLine {
            sku: "mug".to_owned(),
            quantity: 2,
            unit_price: None,
        }],
        total: Some(Money {
            minor_units: 1_999,
            currency: "EUR".to_owned(),
        }),
        payment_method: "pm_ok".to_owned(),
        contact_email: "alice@example.com".to_owned(),
        traceparent: String::new(),
    };
    let nothing = NotificationRecord::default();
    let news = OrderNews::Placed(placed);
    assert_eq!(needs(&news), [format!("{ORDER}.receipt")]);
    let receipt = tell(&news, &nothing);
    assert_eq!(
        (receipt.kind(), receipt.recipient.as_str()),
        (NotificationKind::Receipt, "alice@example.com")
    );
    assert!(
        !receipt.body.contains("pm_ok"),
        "payment methods stay out of mails"
    );

    let message = "the card was declined".to_owned();
    let news = OrderNews::Rejected {
        order_id: ORDER.to_owned(),
        rejected: OrderRejected {
            saga_id: ORDER.to_owned(),
            reason: "CARD_DECLINED".to_owned(),
            message,
            traceparent: String::new(),
        },
    };
    assert_eq!(
        needs(&news),
        [format!("{ORDER}.rejection"), format!("{ORDER}.receipt")]
    );
    let rejection = tell(&news, &after(&nothing, &nothing.record(&receipt)));
    assert_eq!(
        (rejection.recipient.as_str(), rejection.customer_id.as_str()),
        ("alice@example.com", "alice")
    );
    assert!(rejection.body.contains("the card was declined"));
    // A rejection whose receipt is not known is recorded, for nobody.
    assert_eq!(tell(&news, &nothing).recipient, "");
}

proptest! {
    /// What others wrote never breaks out of the subject line or its line of the body.
    #[test]
    fn others_words_stay_on_their_line(sku in ".*", reason in ".*", order in ".*") {
        let lines = [Line { sku, quantity: 1, unit_price_minor: 1 }];
        let note = compose(NotificationKind::Rejection, &order, "", "", &lines, &total(), &reason);
        prop_assert!(!note.subject.chars().any(char::is_control));
        if !order.chars().any(char::is_control) {
            prop_assert_eq!(note.body.lines().count(), 5 + usize::from(!reason.is_empty()) + 2);
        }
    }
}
