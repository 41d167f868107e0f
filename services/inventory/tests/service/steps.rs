//! Each step alone, repeated, out of order, and with input that makes no sense.

use participant::{Direction, Outcome};
use sagamesh_api::shop::inventory::v1::ReservationState;

use crate::shop::{Shop, reason, reserve, step, text};

const TWO_LINES: &str = r#"[{"sku":"cup","quantity":2,"unit_price_minor":250},{"sku":"bean","quantity":1,"unit_price_minor":250}]"#;

async fn stocked(folder: &std::path::Path) -> Shop {
    let shop = Shop::open(folder).await;
    shop.stock("cup", 10).await;
    shop.stock("bean", 5).await;
    shop
}

#[tokio::test]
async fn an_order_of_two_items_from_reservation_to_refund_each_step_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    for _ in 0..3 {
        assert_eq!(shop.reserve("o", TWO_LINES).await, Outcome::done());
    }
    assert_eq!(
        (shop.counts("cup").await, shop.counts("bean").await),
        ((8, 2, 0), (4, 1, 0))
    );
    let reservation = shop.reservation("o").await.unwrap();
    assert_eq!(reservation.state(), ReservationState::Held);
    assert_eq!(reservation.lines.len(), 2);
    assert!(reservation.expire_time.is_some());
    for _ in 0..3 {
        assert_eq!(shop.commit("o").await, Outcome::done());
    }
    assert_eq!(
        (shop.counts("cup").await, shop.counts("bean").await),
        ((8, 0, 2), (4, 0, 1))
    );
    assert_eq!(
        shop.reservation("o").await.unwrap().state(),
        ReservationState::Committed
    );
    for _ in 0..3 {
        assert_eq!(shop.give_back("o").await, Outcome::done());
    }
    assert_eq!(
        (shop.counts("cup").await, shop.counts("bean").await),
        ((10, 0, 0), (5, 0, 0))
    );
    assert_eq!(
        shop.reservation("o").await.unwrap().state(),
        ReservationState::Returned
    );
}

#[tokio::test]
async fn a_release_gives_everything_back_from_the_sagas_id_alone() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    assert_eq!(shop.reserve("o", TWO_LINES).await, Outcome::done());
    for _ in 0..3 {
        assert_eq!(shop.release("o").await, Outcome::done());
    }
    assert_eq!(
        (shop.counts("cup").await, shop.counts("bean").await),
        ((10, 0, 0), (5, 0, 0))
    );
    assert_eq!(
        shop.reservation("o").await.unwrap().state(),
        ReservationState::Released
    );
    assert_eq!(reason(&shop.commit("o").await), "RESERVATION_RELEASED");
    assert_eq!(
        reason(&shop.reserve("o", TWO_LINES).await),
        "COMPENSATED_BEFORE"
    );
}

#[tokio::test]
async fn a_compensation_before_its_action_keeps_the_action_out() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    let head = shop.ledger.head();
    for _ in 0..2 {
        assert_eq!(shop.release("o").await, Outcome::done());
    }
    for _ in 0..2 {
        let outcome = shop.reserve("o", TWO_LINES).await;
        assert!(matches!(outcome, Outcome::Rejected(_)));
        assert_eq!(reason(&outcome), "COMPENSATED_BEFORE");
    }
    assert_eq!(shop.ledger.head(), head);
    assert_eq!(shop.counts("cup").await, (10, 0, 0));
}

#[tokio::test]
async fn an_action_after_its_last_moment_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    let mut late = reserve("o", TWO_LINES);
    late.not_after = Some(1);
    let outcome = Outcome::from(shop.steps.reserve(late).await);
    assert!(matches!(outcome, Outcome::Transient(_)), "{outcome:?}");
    assert_eq!(shop.counts("cup").await, (10, 0, 0));
    // The next attempt, in time, works.
    assert_eq!(shop.reserve("o", TWO_LINES).await, Outcome::done());
}

#[tokio::test]
async fn a_rejection_is_remembered_and_needs_no_undoing() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    let too_many = r#"[{"sku":"cup","quantity":2},{"sku":"bean","quantity":6}]"#;
    let first = shop.reserve("o", too_many).await;
    assert_eq!(reason(&first), "INSUFFICIENT_STOCK");
    // More stock does not change an answer that was given.
    shop.stock("bean", 100).await;
    assert_eq!(shop.reserve("o", too_many).await, first);
    assert_eq!(shop.release("o").await, Outcome::done());
    assert_eq!(shop.counts("cup").await, (10, 0, 0));
    assert!(shop.reservation("o").await.is_err());
}

#[tokio::test]
async fn steps_remember_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    assert_eq!(shop.reserve("o", TWO_LINES).await, Outcome::done());
    assert_eq!(shop.release("early").await, Outcome::done());
    shop.stop().await;
    let shop = Shop::open(folder.path()).await;
    assert_eq!(shop.reserve("o", TWO_LINES).await, Outcome::done());
    assert_eq!(
        reason(&shop.reserve("early", TWO_LINES).await),
        "COMPENSATED_BEFORE"
    );
    assert_eq!(shop.counts("cup").await, (8, 2, 0));
    assert_eq!(shop.commit("o").await, Outcome::done());
    assert_eq!(shop.counts("cup").await, (8, 0, 2));
}

#[tokio::test]
async fn input_that_makes_no_sense_is_rejected_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    let many: Vec<String> = (0..51)
        .map(|number| format!(r#"{{"sku":"s{number}","quantity":1}}"#))
        .collect();
    let many = format!("[{}]", many.join(","));
    for (lines, expected) in [
        ("", "INPUT_INVALID"),
        ("{", "INPUT_INVALID"),
        (r#"{"sku":"cup","quantity":1}"#, "INPUT_INVALID"),
        (r#"[{"sku":"cup"}]"#, "INPUT_INVALID"),
        (r#"[{"sku":"cup","quantity":1.5}]"#, "INPUT_INVALID"),
        (
            r#"[{"sku":"cup","quantity":99999999999999999999}]"#,
            "INPUT_INVALID",
        ),
        ("[]", "INVALID_LINES"),
        (many.as_str(), "INVALID_LINES"),
        (r#"[{"sku":"cup","quantity":-1}]"#, "INVALID_LINES"),
        (r#"[{"sku":"cup","quantity":0}]"#, "INVALID_LINES"),
        (r#"[{"sku":"cup","quantity":10001}]"#, "INVALID_LINES"),
        (r#"[{"sku":"cup","quantity":4294967296}]"#, "INVALID_LINES"),
        (
            r#"[{"sku":"cup","quantity":1},{"sku":"cup","quantity":1}]"#,
            "INVALID_LINES",
        ),
        (r#"[{"sku":"../x","quantity":1}]"#, "INVALID_LINES"),
        (r#"[{"sku":"spoon","quantity":1}]"#, "UNKNOWN_SKU"),
        (r#"[{"sku":"cup","quantity":11}]"#, "INSUFFICIENT_STOCK"),
    ] {
        let outcome = shop
            .reserve(&format!("order-{}", uuid::Uuid::now_v7()), lines)
            .await;
        assert!(
            matches!(outcome, Outcome::Rejected(_)),
            "{lines}: {outcome:?}"
        );
        assert_eq!(reason(&outcome), expected, "{lines}: {outcome:?}");
    }
    for (field, value, expected) in [
        (
            "total",
            r#"{"minor_units":1,"currency":"USD"}"#,
            "CURRENCY_MISMATCH",
        ),
        (
            "total",
            r#"{"minor_units":1,"currency":"eur"}"#,
            "INPUT_INVALID",
        ),
        ("total", "nonsense", "INPUT_INVALID"),
        ("order_id", "a/b", "INPUT_INVALID"),
        ("order_id", "", "INPUT_INVALID"),
    ] {
        let mut command = reserve(&format!("order-{}", uuid::Uuid::now_v7()), TWO_LINES);
        command.input.insert(field.into(), text(value));
        assert_eq!(
            reason(&Outcome::from(shop.steps.reserve(command).await)),
            expected,
            "{field} {value}"
        );
    }
    let mut bare = reserve("bare", TWO_LINES);
    bare.input.remove("lines");
    assert_eq!(
        reason(&Outcome::from(shop.steps.reserve(bare).await)),
        "INPUT_MISSING"
    );
    assert_eq!(
        (shop.counts("cup").await, shop.counts("bean").await),
        ((10, 0, 0), (5, 0, 0))
    );
}

#[tokio::test]
async fn steps_on_a_reservation_that_is_not_there_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let shop = stocked(folder.path()).await;
    assert_eq!(reason(&shop.commit("o").await), "RESERVATION_UNKNOWN");
    assert_eq!(reason(&shop.give_back("o").await), "RESERVATION_UNKNOWN");
    // The rejection was final for that saga's step: another saga's is decided anew.
    assert_eq!(shop.reserve("p", TWO_LINES).await, Outcome::done());
    let mut other = step(
        "another-saga",
        "reserve-stock",
        Direction::Action,
        &[("order_id", "p")],
    );
    other
        .input
        .insert("lines".into(), text(r#"[{"sku":"cup","quantity":1}]"#));
    assert_eq!(
        reason(&Outcome::from(shop.steps.reserve(other).await)),
        "RESERVATION_EXISTS"
    );
}
