//! Whatever a client or an operator asks, any replica answers.

use std::collections::BTreeMap;

use sagamesh_api::saga::v1::*;
use tonic::Code;

use super::*;

#[tokio::test]
async fn every_replica_starts_shows_watches_signals_and_cancels() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    // The second one is used before the first has heard of it.
    let (zero, one) = (cluster.start(0).await, cluster.start(1).await);
    // What is registered on one is started on the other at once.
    let hash = zero.define(with_signal()).await;
    let mut shards = Vec::new();
    for (number, system, other) in [(0, &zero, &one), (1, &one, &zero)] {
        let (id, cancelled) = (format!("s-{number}"), format!("c-{number}"));
        system.start_saga("signal", &id).await;
        system.start_saga("signal", &cancelled).await;
        let watch = other.watch(&id, 0).await;
        // What its step waits for is known where it runs.
        let seen = other.get(&id).await;
        assert_eq!(state_of(&seen, "wait").waits_on(), WaitsOn::Signal);
        let signal = SignalSagaRequest {
            saga_id: id.clone(),
            name: "go".to_owned(),
            signal_id: "1".to_owned(),
            payload: None,
        };
        for accepted in [true, false] {
            let answer = other.sagas.clone().signal_saga(signal.clone()).await;
            assert_eq!(answer.expect("signalled").into_inner().accepted, accepted);
        }
        let mut link = system.link("a", "a-1", &ACTIONS, 10).await;
        let command = link.command().await;
        link.answer(&command, success(""));
        let events = watch.all().await;
        assert!(whole(&events), "{events:?}");
        shards.push(shard(&events[0]));
        assert_eq!(other.get(&id).await.state(), SagaState::Completed);
        let cancel = CancelSagaRequest {
            saga_id: cancelled.clone(),
            reason: "no more".to_owned(),
        };
        let answer = other.sagas.clone().cancel_saga(cancel.clone()).await;
        let saga = answer
            .expect("cancelled")
            .into_inner()
            .saga
            .expect("a saga");
        assert_eq!(saga.state(), SagaState::Compensated);
        let again = system.sagas.clone().cancel_saga(cancel).await;
        again.expect("cancelled already");
    }
    assert_eq!(shards, [0, 1], "each starts in its own shard");
    // In use on one replica, a version is not deleted through the other.
    zero.start_saga("signal", "open").await;
    let mut steps = with_signal();
    steps.steps[1].name = "another".to_owned();
    one.define(steps).await;
    let delete = DeleteDefinitionRequest {
        name: "signal".to_owned(),
        hash,
    };
    let refused = one.definitions.clone().delete_definition(delete).await;
    assert_eq!(reason(&refused.expect_err("in use")), "DEFINITION_IN_USE");
    let missing = one.try_get("nobody").await.expect_err("not there");
    assert_eq!(missing.code(), Code::NotFound);
    zero.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn one_id_started_on_two_replicas_at_once_is_one_saga() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    zero.define(two_steps()).await;
    let mut created = BTreeMap::from([(true, 0), (false, 0)]);
    for number in 0..30 {
        let request = start("order", &format!("s-{number}"));
        let (here, there) = tokio::join!(zero.try_start(request.clone()), one.try_start(request));
        for answer in [here, there] {
            let answer = answer.expect("started");
            assert!(answer.saga.is_some());
            *created.entry(answer.created).or_default() += 1;
        }
    }
    assert_eq!(created, BTreeMap::from([(true, 30), (false, 30)]));
    let mut other = start("order", "s-0");
    other.input.clear();
    for system in [&zero, &one] {
        let refused = system.try_start(other.clone()).await.expect_err("taken");
        assert_eq!(reason(&refused), "SAGA_ID_REUSED");
    }
    // Whoever waits for its end may ask any replica.
    zero.start_saga("order", "waited").await;
    let mut waiting = start("order", "waited");
    waiting.wait = millis(20_000);
    let answering = async {
        for system in [&zero, &one] {
            system.worker("a", &ACTIONS, |_| Some(success(""))).await;
        }
    };
    let (ended, ()) = tokio::join!(one.try_start(waiting), answering);
    let saga = ended.expect("ended").saga.expect("a saga");
    assert_eq!(saga.state(), SagaState::Completed);
    for number in 0..30 {
        let saga = one.ended(&format!("s-{number}")).await;
        assert_eq!(saga.state(), SagaState::Completed);
    }
    zero.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn operators_act_through_any_replica() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    let steps = vec![
        phase_step(Phase::Pivot, "a", "one", &[]),
        phase_step(Phase::Retriable, "a", "two", &["one"]),
    ];
    zero.define(definition("order", steps)).await;
    zero.define(with_signal()).await;
    for system in [&zero, &one] {
        let answer = |command: &Command| match command.step.as_str() {
            "two" => Some(rejection("NO")),
            _ => Some(success("")),
        };
        system.worker("a", &ACTIONS, answer).await;
    }
    for (system, id) in [(&zero, "p-0"), (&one, "p-1"), (&zero, "p-2")] {
        system.start_saga("order", id).await;
        let parked = |kind: &transition::Kind| matches!(kind, transition::Kind::Parked(_));
        one.until(id, parked).await;
    }
    let act = |target| ActOnStepsRequest {
        target: Some(target),
        step: "two".to_owned(),
        action: OperatorAction::ResolveSucceeded.into(),
        operator: "olga".to_owned(),
        reason: "done by hand".to_owned(),
        output: None,
    };
    let single = act(act_on_steps_request::Target::SagaId("p-0".to_owned()));
    let answer = one.operators.clone().act_on_steps(single).await;
    assert_eq!(answer.expect("acted").into_inner().saga_ids, ["p-0"]);
    let filter = SagaFilter {
        definitions: vec!["order".to_owned()],
        ..SagaFilter::default()
    };
    let all = act(act_on_steps_request::Target::Filter(filter));
    let answer = one.operators.clone().act_on_steps(all).await;
    let mut acted = answer.expect("acted").into_inner();
    acted.saga_ids.sort_unstable();
    assert_eq!(
        (acted.saga_ids, acted.refused),
        (vec!["p-1".to_owned(), "p-2".to_owned()], vec![])
    );
    for id in ["p-0", "p-1", "p-2"] {
        assert_eq!(zero.ended(id).await.state(), SagaState::Completed);
    }
    for (system, id) in [(&zero, "c-0"), (&one, "c-1")] {
        system.start_saga("signal", id).await;
    }
    let cancel = CancelSagasRequest {
        filter: Some(SagaFilter {
            definitions: vec!["signal".to_owned()],
            ..SagaFilter::default()
        }),
        operator: "olga".to_owned(),
        reason: "not wanted".to_owned(),
    };
    // The table that filters read follows the log of both.
    soon("both to be listed", async {
        let request = ListSagasRequest {
            filter: cancel.filter.clone(),
            ..ListSagasRequest::default()
        };
        loop {
            let listed = zero.sagas.clone().list_sagas(request.clone()).await;
            if listed.expect("listed").into_inner().sagas.len() == 2 {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = zero.operators.clone().cancel_sagas(cancel).await;
    let mut cancelled = answer.expect("cancelled").into_inner();
    cancelled.saga_ids.sort_unstable();
    assert_eq!(cancelled.saga_ids, ["c-0", "c-1"]);
    for id in ["c-0", "c-1"] {
        let events = zero.watch(id, 0).await.all().await;
        let by = events.iter().flat_map(|event| &event.transitions);
        let by = by.filter_map(|it| match &it.kind {
            Some(transition::Kind::CancelRequested(asked)) => Some(asked.requester.as_str()),
            _ => None,
        });
        assert_eq!(by.collect::<Vec<_>>(), ["olga"]);
    }
    zero.stop().await;
    one.stop().await;
}
