//! What operators do, with the record of it.

use sagamesh_api::saga::v1::*;
use transition::Kind;

use crate::support::*;

fn act(target: act_on_steps_request::Target, action: OperatorAction) -> ActOnStepsRequest {
    ActOnStepsRequest {
        target: Some(target),
        step: String::new(),
        action: action.into(),
        operator: "ann".to_owned(),
        reason: "looked into it".to_owned(),
        output: None,
    }
}

fn one(id: &str) -> act_on_steps_request::Target {
    act_on_steps_request::Target::SagaId(id.to_owned())
}

/// A system whose compensation of step `one` is always rejected; saga after saga is parked.
async fn parked(dir: &std::path::Path, ids: &[&str]) -> (System, Link) {
    let system = System::start(dir).await;
    system
        .define(definition(
            "order",
            vec![step("a", "one", &[]), step("b", "two", &["one"])],
        ))
        .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 100).await;
    system
        .worker("b", &["two.do", "two.undo"], |_| Some(rejection("NO")))
        .await;
    for id in ids {
        system.start_saga("order", id).await;
        let command = a.command().await;
        a.answer(&command, success(""));
        let undo = a.command().await;
        a.answer(&undo, rejection("CANNOT"));
        let saga = system
            .until(id, |kind| matches!(kind, Kind::Parked(_)))
            .await;
        assert_eq!(
            (saga.state(), saga.attention.as_slice()),
            (SagaState::Parked, ["one".to_owned()].as_slice())
        );
        assert_eq!(state_of(&saga, "one").waits_on(), WaitsOn::Operator);
    }
    (system, a)
}

#[tokio::test]
async fn parked_steps_are_retried_skipped_and_resolved_on_record() {
    let dir = tempfile::tempdir().expect("a folder");
    let (system, mut a) = parked(dir.path(), &["s-1", "s-2", "s-3"]).await;
    let mut operators = system.operators.clone();

    let acted = operators
        .act_on_steps(act(one("s-1"), OperatorAction::Retry))
        .await
        .expect("retried")
        .into_inner();
    assert_eq!(acted.saga_ids, ["s-1"]);
    let undo = a.command().await;
    assert_eq!(
        (undo.saga_id.as_str(), undo.direction()),
        ("s-1", Direction::Compensation)
    );
    a.answer(&undo, success(""));
    assert_eq!(system.ended("s-1").await.state(), SagaState::Compensated);

    operators
        .act_on_steps(act(one("s-2"), OperatorAction::Skip))
        .await
        .expect("skipped");
    let skipped = system.ended("s-2").await;
    assert_eq!(
        (skipped.state(), skipped.leftovers),
        (SagaState::CompensatedWithLeftovers, vec!["one".to_owned()])
    );

    operators
        .act_on_steps(act(one("s-3"), OperatorAction::ResolveSucceeded))
        .await
        .expect("resolved");
    let events = system.watch("s-3", 0).await.all().await;
    let audit = events
        .iter()
        .flat_map(|event| &event.transitions)
        .find_map(|transition| match &transition.kind {
            Some(Kind::OperatorActed(acted)) => Some(acted.clone()),
            _ => None,
        });
    let audit = audit.expect("on record");
    assert_eq!(
        (
            audit.operator.as_str(),
            audit.reason.as_str(),
            audit.step.as_str()
        ),
        ("ann", "looked into it", "one")
    );
    assert_eq!(system.get("s-3").await.state(), SagaState::Compensated);

    let refused = operators
        .act_on_steps(act(one("s-3"), OperatorAction::Retry))
        .await
        .expect_err("it has ended");
    assert_eq!(reason(&refused), "SAGA_ENDED");
}

#[tokio::test]
async fn many_sagas_are_acted_on_by_filter() {
    let dir = tempfile::tempdir().expect("a folder");
    let (system, _a) = parked(dir.path(), &["s-1", "s-2", "s-3"]).await;
    let mut operators = system.operators.clone();
    let filter = SagaFilter {
        needs_attention: true,
        definitions: vec!["order".to_owned()],
        ..SagaFilter::default()
    };
    let acted = operators
        .act_on_steps(act(
            act_on_steps_request::Target::Filter(filter),
            OperatorAction::Skip,
        ))
        .await
        .expect("acted")
        .into_inner();
    let mut ids = acted.saga_ids;
    ids.sort();
    assert_eq!(ids, ["s-1", "s-2", "s-3"]);
    assert!(acted.refused.is_empty());
    for id in ids {
        assert_eq!(
            system.ended(&id).await.state(),
            SagaState::CompensatedWithLeftovers
        );
    }
    let empty = act(
        act_on_steps_request::Target::Filter(SagaFilter::default()),
        OperatorAction::Skip,
    );
    let refused = operators
        .act_on_steps(empty)
        .await
        .expect_err("an empty filter");
    assert_eq!(chassis::problem::fields(&refused)[0].0, "filter");
}

#[tokio::test]
async fn many_sagas_are_cancelled_by_filter() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    for number in 0..20 {
        system.start_saga("order", &format!("s-{number:02}")).await;
    }
    let filter = SagaFilter {
        search_attributes: [("customer".to_owned(), "c1".to_owned())].into(),
        ..SagaFilter::default()
    };
    let request = CancelSagasRequest {
        filter: Some(filter),
        operator: "ann".to_owned(),
        reason: "closing".to_owned(),
    };
    let response = system
        .operators
        .clone()
        .cancel_sagas(request)
        .await
        .expect("cancelled")
        .into_inner();
    assert_eq!((response.saga_ids.len(), response.refused.len()), (20, 0));
    for id in response.saga_ids {
        assert_eq!(system.ended(&id).await.state(), SagaState::Compensated);
    }
}

#[tokio::test]
async fn a_step_that_is_neither_parked_nor_stalled_is_not_acted_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    system.start_saga("order", "s-1").await;
    let mut request = act(one("s-1"), OperatorAction::Retry);
    request.step = "one".to_owned();
    let refused = system
        .operators
        .clone()
        .act_on_steps(request)
        .await
        .expect_err("it runs");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::FailedPrecondition, "STEP_NOT_RESOLVABLE")
    );
    let mut request = act(one("s-1"), OperatorAction::Unspecified);
    request.operator.clear();
    request.reason.clear();
    let refused = system
        .operators
        .clone()
        .act_on_steps(request)
        .await
        .expect_err("nothing set");
    let fields: Vec<_> = chassis::problem::fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(fields, ["action", "operator", "reason"]);
}

#[tokio::test]
async fn the_pivots_unknown_outcome_parks_and_is_resolved() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let pay = with_call(phase_step(Phase::Pivot, "a", "pay", &[]), |call| {
        call.timeout = millis(40);
        call.stalled_after = millis(60);
    });
    system.define(definition("order", vec![pay])).await;
    system.worker("a", &["pay.do"], |_| None).await;
    system.start_saga("order", "s-1").await;
    let saga = system.until("s-1", |kind| matches!(kind, Kind::Parked(parked) if parked.reason() == ParkReason::PivotUnknown)).await;
    assert_eq!(saga.state(), SagaState::Parked);
    let mut request = act(one("s-1"), OperatorAction::ResolveSucceeded);
    request.output = Some(text("seen at the bank"));
    system
        .operators
        .clone()
        .act_on_steps(request)
        .await
        .expect("resolved");
    let saga = system.ended("s-1").await;
    assert_eq!(
        (saga.state(), state_of(&saga, "pay").output.clone()),
        (SagaState::Completed, Some(text("seen at the bank")))
    );
}

#[tokio::test]
async fn more_sagas_than_a_page_holds_are_found_once_each() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let ids: Vec<String> = (0..1_003).map(|number| format!("s-{number:04}")).collect();
    let starts = ids.iter().map(|id| system.start_saga("order", id));
    futures_util::future::join_all(starts).await;
    let request = CancelSagasRequest {
        filter: Some(SagaFilter {
            definitions: vec!["order".to_owned()],
            ..SagaFilter::default()
        }),
        operator: "ann".to_owned(),
        reason: "closing".to_owned(),
    };
    let response = system
        .operators
        .clone()
        .cancel_sagas(request)
        .await
        .expect("cancelled")
        .into_inner();
    let mut found = response.saga_ids;
    found.sort_unstable();
    assert!(response.refused.is_empty());
    assert_eq!(found, ids);
}
