//! What callers ask for: checks and prices.

use super::*;

#[test]
fn everything_wrong_is_told_at_once() {
    assert_eq!(fields(validate_place(request())), Vec::<String>::new());
    assert_eq!(
        fields(validate_place(PlaceOrderRequest::default())),
        [
            "request_id",
            "customer_id",
            "lines",
            "payment_method",
            "currency"
        ]
    );
    let bad = PlaceOrderRequest {
        request_id: "0198c5f0-0000-7000-8000_000000000002".to_owned(),
        customer_id: "a\nb".to_owned(),
        lines: vec![
            line("mug", 0, None),
            line("mug", 10_001, Some(-1)),
            line("bad sku", 1, None),
            OrderLine {
                unit_price: Some(Money {
                    minor_units: 5,
                    currency: "USD".to_owned(),
                }),
                ..line("cup", 1, None)
            },
        ],
        payment_method: "PM OK".to_owned(),
        currency: "eur".to_owned(),
        contact_email: "nobody".to_owned(),
    };
    assert_eq!(
        fields(validate_place(bad)),
        [
            "request_id",
            "customer_id",
            "lines[0].quantity",
            "lines[1].sku",
            "lines[1].quantity",
            "lines[1].unit_price.minor_units",
            "lines[1].unit_price.currency",
            "lines[2].sku",
            "lines[3].unit_price.currency",
            "payment_method",
            "currency",
            "contact_email",
        ]
    );
    let many = PlaceOrderRequest {
        lines: (0..51).map(|n| line(&format!("s{n}"), 1, None)).collect(),
        ..request()
    };
    assert_eq!(fields(validate_place(many)), ["lines"]);
}

#[test]
fn addresses_are_checked() {
    let with = |email: &str| {
        fields(validate_place(PlaceOrderRequest {
            contact_email: email.to_owned(),
            ..request()
        }))
    };
    for good in [
        "",
        "a@b",
        "first.last+tag@mail.example.com",
        &format!("{}@{}", "a".repeat(64), "b.c".repeat(10)),
    ] {
        assert!(with(good).is_empty(), "{good}");
    }
    let long = format!("a@{}", ["b".repeat(63).as_str(); 4].join("."));
    for bad in [
        "a",
        "@b",
        "a@",
        "a b@c",
        "a@b..c",
        "a@-b",
        ".a@b",
        "a..b@c",
        "a@b\r\nBcc: x@y",
        "ä@b",
        "a@b@c",
        &long,
        &"a".repeat(300),
    ] {
        assert_eq!(with(bad), ["contact_email"], "{bad:?}");
    }
}

#[test]
fn a_cancellation_is_checked() {
    let good = CancelOrderRequest {
        order_id: SAGA.to_owned(),
        ..CancelOrderRequest::default()
    };
    assert_eq!(validate_cancel(&good), Ok(()));
    let bad = CancelOrderRequest {
        order_id: "1".to_owned(),
        customer_id: "x".repeat(129),
        reason: "x".repeat(501),
        request_id: "y".to_owned(),
    };
    let found: Vec<_> = validate_cancel(&bad)
        .unwrap_err()
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(found, ["order_id", "customer_id", "reason", "request_id"]);
}

#[test]
fn prices_come_from_the_catalogue() {
    let answer = [available("tea_pot-1", 1, 1_999), available("mug", 2, 500)];
    let placed = priced(request(), &answer)
        .expect("priced")
        .into_placed(SAGA);
    assert_eq!(placed.total, Some(eur(2_999)));
    assert_eq!(
        placed.lines,
        vec![line("mug", 2, Some(500)), line("tea_pot-1", 1, Some(1_999))]
    );

    let same = PlaceOrderRequest {
        lines: vec![line("mug", 2, Some(500))],
        ..request()
    };
    assert!(priced(same, &answer).is_ok());
    let other = PlaceOrderRequest {
        lines: vec![line("mug", 2, Some(499))],
        ..request()
    };
    let Err(AvailabilityProblem::Invalid(found)) = priced(other, &answer) else {
        panic!("not refused")
    };
    assert_eq!(found[0].field, "lines[0].unit_price");
}

#[test]
fn what_inventory_cannot_give_is_told() {
    let unknown = LineAvailability {
        sku: "mug".to_owned(),
        unknown: true,
        ..LineAvailability::default()
    };
    let Err(AvailabilityProblem::Invalid(found)) =
        priced(request(), &[unknown, available("tea_pot-1", 0, 5)])
    else {
        panic!()
    };
    assert_eq!(
        found
            .iter()
            .map(|violation| violation.field.as_str())
            .collect::<Vec<_>>(),
        ["lines[0].sku"]
    );

    let short = priced(
        request(),
        &[available("mug", 1, 5), available("tea_pot-1", 0, 5)],
    );
    assert_eq!(
        short,
        Err(AvailabilityProblem::Insufficient(vec![
            ("mug".to_owned(), 2, 1),
            ("tea_pot-1".to_owned(), 1, 0)
        ]))
    );
    assert!(matches!(
        priced(request(), &[available("mug", 9, 5)]),
        Err(AvailabilityProblem::Nonsense(_))
    ));
    assert!(matches!(
        priced(
            request(),
            &[available("mug", 9, -5), available("tea_pot-1", 9, 5)]
        ),
        Err(AvailabilityProblem::Nonsense(_))
    ));

    let dollars = PlaceOrderRequest {
        currency: "USD".to_owned(),
        ..request()
    };
    let Err(AvailabilityProblem::Invalid(found)) = priced(
        dollars,
        &[available("mug", 9, 5), available("tea_pot-1", 9, 5)],
    ) else {
        panic!()
    };
    assert_eq!(found[0].field, "currency");

    for price in [MAX_TOTAL_MINOR, i64::MAX] {
        let Err(AvailabilityProblem::Invalid(found)) = priced(
            request(),
            &[available("mug", 9, price), available("tea_pot-1", 9, 5)],
        ) else {
            panic!()
        };
        assert_eq!(found[0].field, "lines");
    }
}
