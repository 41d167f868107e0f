//! The sagas of orders.

use super::*;

#[test]
fn the_definitions_keep_the_rules_of_phases() {
    for definition in definitions() {
        assert_eq!(
            revision_of(&definition.description),
            REVISION,
            "{}",
            definition.name
        );
        let mut ancestors: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let pivot = definition
            .steps
            .iter()
            .find(|step| step.phase() == Phase::Pivot)
            .expect("a pivot");
        for step in &definition.steps {
            let mut all = BTreeSet::new();
            for before in &step.after {
                all.insert(before.as_str());
                all.extend(
                    ancestors
                        .get(before.as_str())
                        .expect("steps are listed after their predecessors"),
                );
            }
            ancestors.insert(&step.name, all);
        }
        for step in &definition.steps {
            let Some(step::Kind::Call(call)) = &step.kind else {
                panic!("{} is no call", step.name)
            };
            assert_eq!(
                call.compensation.is_empty(),
                step.phase() != Phase::Compensatable,
                "{}",
                step.name
            );
            assert!(call.action.starts_with(&call.participant), "{}", step.name);
            match step.phase() {
                Phase::Compensatable => {
                    assert!(ancestors[pivot.name.as_str()].contains(step.name.as_str()))
                }
                Phase::Retriable => {
                    assert!(ancestors[step.name.as_str()].contains(pivot.name.as_str()))
                }
                Phase::Pivot => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(revision_of("Somebody else's. Revision x."), 0);
    assert_eq!(revision_of(""), 0);
}

#[test]
fn sagas_get_what_their_steps_ask_for() {
    let mut state = OrderState::default();
    state.evolve(&OrderEvent::Placed(placed()));
    let order = state.order.expect("placed");
    let place = saga_input(&order, None);
    let refund = saga_input(&order, Some("broken"));
    for (definition, input) in definitions().iter().zip([&place, &refund]) {
        for step in &definition.steps {
            let Some(step::Kind::Call(call)) = &step.kind else {
                panic!()
            };
            for field in &call.input_fields {
                assert!(input.contains_key(field), "{} wants {field}", step.name);
            }
        }
    }
    let text = |name: &str| match &place[name].kind {
        Some(value::Kind::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        text("lines"),
        r#"[{"quantity":2,"sku":"mug","unit_price_minor":500}]"#
    );
    assert_eq!(text("total"), r#"{"currency":"EUR","minor_units":1000}"#);
}
