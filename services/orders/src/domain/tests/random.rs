//! Random histories, totals and texts.

use super::*;

proptest! {
    /// The total is the sum over the lines, or the order is refused; never an overflow.
    #[test]
    fn totals_are_exact_or_refused(lines in proptest::collection::vec((1_u32..=10_000, 0_i64..=i64::MAX), 1..=50)) {
        let request = PlaceOrderRequest {
            lines: lines.iter().enumerate().map(|(n, (quantity, _))| line(&format!("s{n}"), *quantity, None)).collect(),
            ..request()
        };
        let answer: Vec<_> = lines.iter().enumerate().map(|(n, (_, price))| available(&format!("s{n}"), 10_000, *price)).collect();
        let exact: i128 = lines.iter().map(|(quantity, price)| i128::from(*quantity) * i128::from(*price)).sum();
        match priced(request, &answer) {
            Ok(order) => prop_assert_eq!(i128::from(order.into_placed(SAGA).total.expect("set").minor_units), exact),
            Err(AvailabilityProblem::Invalid(_)) => prop_assert!(exact > i128::from(MAX_TOTAL_MINOR)),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    /// Small totals are never refused.
    #[test]
    fn small_totals_are_accepted(lines in proptest::collection::vec((1_u32..=100, 0_i64..=10_000), 1..=50)) {
        let request = PlaceOrderRequest {
            lines: lines.iter().enumerate().map(|(n, (quantity, _))| line(&format!("s{n}"), *quantity, None)).collect(),
            ..request()
        };
        let answer: Vec<_> = lines.iter().enumerate().map(|(n, (_, price))| available(&format!("s{n}"), 100, *price)).collect();
        let exact: i64 = lines.iter().map(|(quantity, price)| i64::from(*quantity) * *price).sum();
        prop_assert_eq!(priced(request, &answer).expect("accepted").into_placed(SAGA).total, Some(eur(exact)));
    }

    /// Whatever comes, a history never contradicts itself: one end, a refund only after a confirmation, and a settled order owes nothing.
    #[test]
    fn histories_are_sound(acts in proptest::collection::vec(0..ACTS.len(), 0..40)) {
        let mut state = OrderState::default();
        let mut history = Vec::new();
        for index in acts {
            for event in act(&state, ACTS[index]).1 {
                state.evolve(&event);
                history.push(event);
            }
        }
        let count = |wanted: fn(&OrderEvent) -> bool| history.iter().filter(|event| wanted(event)).count();
        let confirmed = count(|event| matches!(event, OrderEvent::Confirmed(_)));
        let rejected = count(|event| matches!(event, OrderEvent::Rejected(_)));
        let refunded = count(|event| matches!(event, OrderEvent::Refunded(_)));
        prop_assert!(confirmed + rejected <= 1);
        prop_assert!(refunded <= confirmed);
        prop_assert!(count(|event| matches!(event, OrderEvent::Placed(_))) <= 1);
        prop_assert!(count(|event| matches!(event, OrderEvent::Locked(_))) <= 1);
        prop_assert!(count(|event| matches!(event, OrderEvent::SagaStarted(_))) <= 2);
        if state.is_settled() {
            prop_assert!(outstanding(&state).is_empty());
        }
        // Replaying gives the same state.
        let mut again = OrderState::default();
        history.iter().for_each(|event| again.evolve(event));
        prop_assert_eq!(again, state);
    }

    /// No input makes the checks panic, and what passes keeps the limits.
    #[test]
    fn checks_hold_for_any_text(id in ".{0,40}", customer in ".{0,140}", sku in ".{0,70}", method in ".{0,70}", currency in ".{0,5}", email in ".{0,40}@.{0,40}") {
        let request = PlaceOrderRequest {
            request_id: id, customer_id: customer, lines: vec![line(&sku, 1, None)], payment_method: method, currency, contact_email: email,
        };
        if let Ok(valid) = validate_place(request) {
            let request = valid.request();
            prop_assert!(request.contact_email.is_ascii() && !request.contact_email.contains(char::is_whitespace));
            prop_assert_eq!(request.request_id.len(), 36);
        }
    }
}
