//! Each step alone, repeated, out of order, interrupted, and with input that makes no sense.

use participant::{Direction, Kind, Outcome, Value};
use payments::domain::Operation::{Authorize, Capture, Refund, Void};
use sagamesh_api::shop::payments::v1::PaymentState;

use crate::shop::{Shop, authorize, reason, step, undo};

#[tokio::test]
async fn each_step_does_its_work_once_however_often_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    for _ in 0..3 {
        assert_eq!(shop.authorize("o", "pm_ok").await, Outcome::done());
    }
    assert_eq!(shop.payment("o").await.state(), PaymentState::Authorized);
    assert_eq!(
        shop.accounts().await,
        [
            ("authorized:EUR".into(), 1_250),
            ("customer:alice".into(), -1_250)
        ]
    );
    for _ in 0..3 {
        assert_eq!(shop.capture("o").await, Outcome::done());
    }
    assert_eq!(shop.payment("o").await.state(), PaymentState::Captured);
    assert_eq!(
        shop.accounts().await,
        [
            ("customer:alice".into(), -1_250),
            ("merchant:EUR".into(), 1_250)
        ]
    );
    for _ in 0..3 {
        assert_eq!(shop.refund("o").await, Outcome::done());
    }
    assert_eq!(shop.payment("o").await.state(), PaymentState::Refunded);
    assert_eq!(shop.accounts().await, []);
    assert_eq!(
        shop.bank.approved("o").await.unwrap(),
        [Authorize, Capture, Refund]
    );
    // Intent and outcome of three operations, and nothing of the repetitions.
    assert_eq!(shop.ledger.head(), 6);
}

#[tokio::test]
async fn a_voided_authorization_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    assert_eq!(shop.authorize("o", "pm_ok").await, Outcome::done());
    for _ in 0..3 {
        assert_eq!(shop.void("o").await, Outcome::done());
    }
    assert_eq!(shop.payment("o").await.state(), PaymentState::Voided);
    assert_eq!(shop.accounts().await, []);
    assert_eq!(shop.bank.approved("o").await.unwrap(), [Authorize, Void]);
    assert_eq!(reason(&shop.capture("o").await), "PAYMENT_VOIDED");
    assert_eq!(
        reason(&shop.authorize("o", "pm_ok").await),
        "COMPENSATED_BEFORE"
    );
}

#[tokio::test]
async fn a_no_of_the_bank_is_recorded_and_needs_no_undoing() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    for (method, expected) in [
        ("pm_declined", "CARD_DECLINED"),
        ("pm_insufficient_funds", "INSUFFICIENT_FUNDS"),
        ("pm_gold", "UNKNOWN_PAYMENT_METHOD"),
    ] {
        let order = format!("order-{method}");
        for _ in 0..2 {
            let outcome = shop.authorize(&order, method).await;
            assert!(matches!(outcome, Outcome::Rejected(_)));
            assert_eq!(reason(&outcome), expected);
            assert!(
                !format!("{outcome:?}").contains(method),
                "the method is shown: {outcome:?}"
            );
        }
        let payment = shop.payment(&order).await;
        assert_eq!(
            (payment.state(), payment.decline_reason.as_str()),
            (PaymentState::Declined, expected)
        );
        assert_eq!(reason(&shop.capture(&order).await), expected);
        assert_eq!(shop.void(&order).await, Outcome::done());
        assert_eq!(shop.bank.approved(&order).await.unwrap(), []);
    }
    assert_eq!(shop.accounts().await, []);
}

#[tokio::test]
async fn a_flaky_bank_is_tried_again_with_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    for _ in 0..2 {
        let outcome = shop.authorize("o", "pm_flaky").await;
        assert!(matches!(outcome, Outcome::Transient(_)), "{outcome:?}");
        assert_eq!(reason(&outcome), "PROCESSOR_UNAVAILABLE");
    }
    assert_eq!(shop.authorize("o", "pm_flaky").await, Outcome::done());
    assert_eq!(shop.bank.approved("o").await.unwrap(), [Authorize]);
}

#[tokio::test]
async fn silence_is_an_unknown_outcome_and_the_next_attempt_learns_it() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let outcome = shop.authorize_in_silence("o").await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(shop.payment("o").await.state(), PaymentState::Authorizing);
    assert_eq!(
        shop.authorize("o", "pm_timeout_authorize").await,
        Outcome::done()
    );
    assert_eq!(shop.capture("o").await, Outcome::done());
    assert_eq!(shop.bank.approved("o").await.unwrap(), [Authorize, Capture]);
}

#[tokio::test]
async fn an_undo_settles_the_open_intent_first() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;

    // The bank holds the money, and we do not know.
    assert!(matches!(
        shop.authorize_in_silence("held").await,
        Outcome::Unknown(_)
    ));
    assert_eq!(shop.void("held").await, Outcome::done());
    assert_eq!(shop.payment("held").await.state(), PaymentState::Voided);
    assert_eq!(shop.bank.approved("held").await.unwrap(), [Authorize, Void]);

    // The bank took the money, and we do not know.
    assert_eq!(
        shop.authorize("taken", "pm_timeout_capture").await,
        Outcome::done()
    );
    assert!(matches!(
        shop.capture_in_silence("taken").await,
        Outcome::Unknown(_)
    ));
    assert_eq!(shop.payment("taken").await.state(), PaymentState::Capturing);
    assert_eq!(shop.void("taken").await, Outcome::done());
    assert_eq!(shop.payment("taken").await.state(), PaymentState::Refunded);
    assert_eq!(
        shop.bank.approved("taken").await.unwrap(),
        [Authorize, Capture, Refund]
    );
    assert_eq!(shop.accounts().await, []);
}

#[tokio::test]
async fn a_compensation_before_its_action_keeps_the_action_out() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    for _ in 0..2 {
        assert_eq!(shop.void("o").await, Outcome::done());
    }
    for _ in 0..2 {
        assert_eq!(
            reason(&shop.authorize("o", "pm_ok").await),
            "COMPENSATED_BEFORE"
        );
    }
    assert_eq!(shop.bank.approved("o").await.unwrap(), []);
    assert_eq!(shop.ledger.head(), 0, "nothing happened to the payment");
}

#[tokio::test]
async fn an_action_after_its_last_moment_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let mut late = authorize("o", "pm_ok");
    late.not_after = Some(1);
    let outcome = Outcome::from(shop.steps.authorize(late).await);
    assert!(matches!(outcome, Outcome::Transient(_)), "{outcome:?}");
    assert_eq!(reason(&outcome), "TOO_LATE");
    assert_eq!(
        (shop.ledger.head(), shop.bank.approved("o").await.unwrap()),
        (0, vec![])
    );
}

#[tokio::test]
async fn a_crash_between_intent_and_outcome_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    {
        let shop = Shop::open(folder.path()).await;
        for order in ["goes-on", "undone", "undone-at-bank"] {
            shop.intend_to_authorize(order, "pm_ok").await;
        }
        for order in ["captured", "undone-capture"] {
            assert_eq!(shop.authorize(order, "pm_ok").await, Outcome::done());
            shop.intend_to_capture(order).await;
        }
        // The bank has done this one, and the answer was lost with the process.
        shop.stop().await;
        let shop = Shop::open(folder.path()).await;
        let lost = authorize("undone-at-bank", "pm_ok");
        assert_eq!(
            Outcome::from(shop.steps.authorize(lost).await),
            Outcome::done()
        );
        shop.stop().await;
    }
    let shop = Shop::open(folder.path()).await;
    assert_eq!(shop.authorize("goes-on", "pm_ok").await, Outcome::done());
    assert_eq!(shop.capture("captured").await, Outcome::done());
    for order in ["undone", "undone-at-bank", "undone-capture"] {
        assert_eq!(shop.void(order).await, Outcome::done());
        assert_eq!(
            shop.payment(order).await.state(),
            PaymentState::Voided,
            "{order}"
        );
        assert_eq!(
            reason(&shop.authorize(order, "pm_ok").await),
            "COMPENSATED_BEFORE"
        );
    }
    assert_eq!(shop.bank.approved("goes-on").await.unwrap(), [Authorize]);
    assert_eq!(
        shop.bank.approved("captured").await.unwrap(),
        [Authorize, Capture]
    );
    assert_eq!(shop.bank.approved("undone").await.unwrap(), [Void]);
    assert_eq!(
        shop.bank.approved("undone-capture").await.unwrap(),
        [Authorize, Void]
    );
    let accounts = shop.accounts().await;
    assert_eq!(
        accounts,
        [
            ("authorized:EUR".into(), 1_250),
            ("customer:alice".into(), -2_500),
            ("merchant:EUR".into(), 1_250),
        ]
    );
}

#[tokio::test]
async fn input_that_makes_no_sense_is_rejected_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    let long = "x".repeat(129);
    for (field, value, says) in [
        ("total", Some("{not json"), "total"),
        (
            "total",
            Some(r#"{"minor_units":-1,"currency":"EUR"}"#),
            "minor_units is -1",
        ),
        (
            "total",
            Some(r#"{"minor_units":1000000000001,"currency":"EUR"}"#),
            "not 0 to 1000000000000",
        ),
        (
            "total",
            Some(r#"{"minor_units":99999999999999999999,"currency":"EUR"}"#),
            "total",
        ),
        (
            "total",
            Some(r#"{"minor_units":1.5,"currency":"EUR"}"#),
            "total",
        ),
        (
            "total",
            Some(r#"{"minor_units":1,"currency":"eur"}"#),
            "currency",
        ),
        ("total", None, "total"),
        ("customer_id", None, "customer_id"),
        ("customer_id", Some(""), "customer_id"),
        ("customer_id", Some(long.as_str()), "customer_id"),
        ("payment_method", None, "payment_method"),
        ("payment_method", Some("a\nb"), "payment_method"),
        ("order_id", Some("a/b"), "order_id"),
        ("order_id", Some(""), "order_id"),
    ] {
        let mut command = authorize("o", "pm_ok");
        match value {
            Some(text) => {
                command.input.insert(
                    field.into(),
                    Value {
                        kind: Some(Kind::Text(text.into())),
                    },
                );
            }
            None => {
                command.input.remove(field);
            }
        }
        let outcome = Outcome::from(shop.steps.authorize(command).await);
        assert!(
            matches!(outcome, Outcome::Rejected(_)),
            "{field} {value:?}: {outcome:?}"
        );
        let message = &outcome.failure().unwrap().message;
        assert!(message.contains(says), "{field} {value:?}: {message}");
    }
    assert_eq!(shop.ledger.head(), 0);
}

#[tokio::test]
async fn steps_on_a_payment_that_is_not_there_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    assert_eq!(reason(&shop.capture("o").await), "PAYMENT_UNKNOWN");
    assert_eq!(reason(&shop.refund("o").await), "PAYMENT_UNKNOWN");
    assert_eq!(shop.authorize("p", "pm_ok").await, Outcome::done());
    assert_eq!(reason(&shop.refund("p").await), "PAYMENT_NOT_CAPTURED");
    let mut other = authorize("another-saga", "pm_ok");
    other.input.insert(
        "order_id".into(),
        Value {
            kind: Some(Kind::Text("p".into())),
        },
    );
    other.input.insert(
        "customer_id".into(),
        Value {
            kind: Some(Kind::Text("mallory".into())),
        },
    );
    let outcome = Outcome::from(shop.steps.authorize(other).await);
    assert_eq!(reason(&outcome), "PAYMENT_EXISTS");
    // Undoing that rejected action must not touch the payment of the first saga.
    let input = [("order_id", "p")];
    let undo_other = step(
        "another-saga",
        "authorize-payment",
        Direction::Compensation,
        &input,
    );
    assert_eq!(
        Outcome::from(shop.steps.void(undo_other).await),
        Outcome::done()
    );
    assert_eq!(shop.payment("p").await.state(), PaymentState::Authorized);
    assert_eq!(
        Outcome::from(shop.steps.void(undo("p")).await),
        Outcome::done()
    );
}

#[tokio::test]
async fn five_failures_leave_the_bank_alone() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    for order in ["a", "a", "b", "b", "c"] {
        assert_eq!(
            reason(&shop.authorize(order, "pm_flaky").await),
            "PROCESSOR_UNAVAILABLE"
        );
    }
    let outcome = shop.authorize("d", "pm_ok").await;
    let Outcome::Transient(failure) = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failure.reason, "PROCESSOR_CIRCUIT_OPEN");
    assert!(
        failure
            .retry_after
            .as_ref()
            .is_some_and(|after| after.seconds > 50),
        "{failure:?}"
    );
}
