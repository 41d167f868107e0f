//! Several replicas on one PostgreSQL: whoever is killed, stopped or stands still, its sagas go on elsewhere, once.

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::Options;
use ledger::StoreConfig;
use sagamesh_api::saga::v1::*;
use sqlx::Connection as _;
use tokio::sync::mpsc;
use tonic::Code;

use crate::support::*;

/// Runs out soon.
const SHORT: Duration = Duration::from_secs(2);
/// Does not run out in a test: what is handed over then is handed over on purpose.
const LONG: Duration = Duration::from_secs(3600);

/// A database for replicas.
struct Cluster {
    url: String,
    lease: Duration,
}

impl Cluster {
    /// `None` when PostgreSQL is not on this machine.
    async fn new(lease: Duration) -> Option<Self> {
        let url = ledger::testing::postgres().await?.database().await;
        Some(Self { url, lease })
    }

    async fn connection(&self) -> sqlx::PgConnection {
        let connected = sqlx::PgConnection::connect(&self.url).await;
        connected.expect("PostgreSQL answers")
    }

    async fn start(&self, number: usize) -> System {
        let options = Options {
            replica: format!("coordinator-{number}"),
            lease: self.lease,
            ..options()
        };
        System::start_on(StoreConfig::postgres(&self.url, "coordinator"), options).await
    }
}

/// No lease is renewed until this transaction ends.
async fn hold_renewals(hand: &mut sqlx::PgConnection) -> sqlx::Transaction<'_, sqlx::Postgres> {
    let mut held = hand.begin().await.expect("begun");
    sqlx::query("SELECT 1 FROM coordinator.ledger_owners FOR UPDATE")
        .execute(&mut *held)
        .await
        .expect("held");
    held
}

/// Two replicas that know of each other.
async fn pair(cluster: &Cluster) -> (System, System) {
    let (zero, one) = (cluster.start(0).await, cluster.start(1).await);
    soon("the first one to hear of the second", async {
        loop {
            let first = participate_request::Message::Hello(hello("c", "probe", &["probe"], 1));
            let mut link = zero.raw_link(first).await.expect("a stream");
            match link.next().await.expect("no error") {
                Some(participate_response::Message::Welcome(it)) if it.peers.len() == 2 => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    (zero, one)
}

/// Two steps of participant a, one after the other.
fn two_steps() -> Definition {
    definition(
        "order",
        vec![step("a", "one", &[]), step("a", "two", &["one"])],
    )
}

const ACTIONS: [&str; 4] = ["one.do", "one.undo", "two.do", "two.undo"];

/// One step that waits for a signal, then one of participant a.
fn with_signal() -> Definition {
    let mut wait = step("a", "wait", &[]);
    wait.phase = Phase::ReadOnly.into();
    wait.kind = Some(step::Kind::Signal(Signal {
        name: "go".to_owned(),
        ..Signal::default()
    }));
    definition("signal", vec![wait, step("a", "one", &["wait"])])
}

/// The shard that a saga was started in.
fn shard(event: &SagaEvent) -> i64 {
    match event
        .transitions
        .first()
        .and_then(|first| first.kind.clone())
    {
        Some(transition::Kind::Started(started)) => started.shard,
        other => panic!("not a start: {other:?}"),
    }
}

/// Watching ended with the saga, and missed and repeated nothing.
fn whole(events: &[SagaEvent]) -> bool {
    let versions: Vec<u64> = events.iter().map(|event| event.version).collect();
    versions == (1..=events.len() as u64).collect::<Vec<_>>()
}

#[tokio::test]
async fn the_sagas_of_a_replica_that_was_killed_go_on_with_another_one() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    zero.define(two_steps()).await;
    let mut there = zero.link("a", "a-1", &ACTIONS, 10).await;
    let mut here = one.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "killed").await;
    let watching = one.watch("killed", 0).await;
    let first = there.command().await;
    zero.kill().await;
    // The participant reports on the stream that it has left; nobody owns the saga yet.
    here.answer(&first, success("1"));
    let second = here.command().await;
    assert_eq!((second.step.as_str(), second.attempt), ("two", 1));
    here.answer(&second, success("2"));
    let events = watching.all().await;
    assert!(whole(&events), "{events:?}");
    let saga = one.ended("killed").await;
    assert_eq!(saga.state(), SagaState::Completed);
    assert_eq!(
        saga.steps
            .iter()
            .map(|step| step.attempts)
            .collect::<Vec<_>>(),
        [1, 1]
    );
    one.stop().await;
}

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
async fn a_replica_that_stops_hands_its_sagas_over_and_gets_its_shard_back() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    zero.define(two_steps()).await;
    let mut there = zero.link("a", "a-1", &ACTIONS, 1).await;
    let mut here = one.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "sent").await;
    let sent = there.command().await;
    // No credit is left for this one.
    zero.start_saga("order", "unsent").await;
    let waited = tokio::spawn({
        let mut request = start("order", "sent");
        request.wait = millis(20_000);
        let mut client = one.sagas.clone();
        async move { client.start_saga(request).await }
    });
    zero.stop().await;
    // What was never sent is sent now, as the attempt that it was; the lease has not run out.
    let unsent = here.command().await;
    assert_eq!((unsent.saga_id.as_str(), unsent.attempt), ("unsent", 1));
    here.answer(&sent, success(""));
    here.answer(&unsent, success(""));
    for _ in 0..2 {
        let command = here.command().await;
        assert_eq!((command.step.as_str(), command.attempt), ("two", 1));
        here.answer(&command, success(""));
    }
    for id in ["sent", "unsent"] {
        assert_eq!(one.ended(id).await.state(), SagaState::Completed);
    }
    let waited = waited.await.expect("a task").expect("ended").into_inner();
    assert_eq!(waited.saga.expect("a saga").state(), SagaState::Completed);
    // One more, which goes home with its shard.
    one.start_saga("order", "other").await;
    let other = here.command().await;
    let zero = cluster.start(0).await;
    let watch = one.watch("other", 0).await;
    zero.start_saga("order", "home").await;
    let mut there = zero.link("a", "a-1", &ACTIONS, 10).await;
    soon("its shard to come home", async {
        let mut number = 0;
        loop {
            number += 1;
            let id = format!("probe-{number}");
            zero.start_saga("order", &id).await;
            let first = zero.watch(&id, 0).await.next().await.expect("an event");
            if shard(&first) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let command = there.command().await;
    there.answer(&command, success(""));
    here.answer(&other, success(""));
    let mut watch = watch;
    while let Some(event) = watch.next().await {
        let done = |it: &Transition| matches!(&it.kind, Some(transition::Kind::Succeeded(_)));
        if event.transitions.iter().any(done) {
            break;
        }
    }
    zero.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn a_replica_that_comes_back_under_its_name_goes_on_at_once() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    zero.define(two_steps()).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "s").await;
    let first = link.command().await;
    zero.kill().await;
    let zero = cluster.start(0).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 10).await;
    link.answer(&first, success(""));
    let second = link.command().await;
    // It may also report to a replica that does not run the saga.
    let elsewhere = one.link("a", "a-1", &ACTIONS, 10).await;
    elsewhere.answer(&second, success(""));
    let saga = one.ended("s").await;
    assert_eq!(saga.state(), SagaState::Completed);
    zero.stop().await;
    one.stop().await;
}

/// Answers every command on a stream with success, and tells of it.
fn answering(mut link: Link, told: &mpsc::UnboundedSender<Command>) {
    let told = told.clone();
    tokio::spawn(async move {
        while let Ok(Some(message)) = link.next().await {
            if let participate_response::Message::Command(command) = message {
                link.answer(&command, success(""));
                drop(told.send(command));
            }
        }
    });
}

#[tokio::test]
async fn a_replica_that_stood_still_beyond_its_lease_writes_and_sends_nothing() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let (zero, one) = pair(&cluster).await;
    let quick = |step| with_call(step, |call| call.timeout = millis(500));
    let steps = vec![quick(step("a", "one", &[])), step("b", "two", &[])];
    zero.define(definition("order", steps)).await;
    let mut b = zero.link("b", "b-1", &["two.do", "two.undo"], 10).await;
    // No credit: the first step waits in its queue.
    let a = zero.link("a", "a-1", &ACTIONS, 0).await;
    zero.start_saga("order", "s").await;
    let two = b.command().await;
    let (told, mut commands) = mpsc::unbounded_channel();
    answering(one.link("a", "a-1", &ACTIONS, 10).await, &told);
    answering(
        one.link("b", "b-1", &["two.do", "two.undo"], 10).await,
        &told,
    );
    let watching = one.watch("s", 0).await;
    zero.freeze(SHORT * 3).await;
    // Both reach it while it stands still, and are read before it has looked at its lease.
    a.credit(10);
    b.answer(&two, success("late"));
    answering(a, &told);
    answering(b, &told);
    let cancel = CancelSagaRequest {
        saga_id: "s".to_owned(),
        reason: "taken over".to_owned(),
    };
    soon("the other one to take over", async {
        loop {
            match one.sagas.clone().cancel_saga(cancel.clone()).await {
                Ok(_) => return,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let events = watching.all().await;
    assert!(whole(&events), "{events:?}");
    assert_eq!(zero.ended("s").await.state(), SagaState::Compensated);
    zero.stop().await;
    one.stop().await;
    drop(told);
    let mut undone = BTreeMap::new();
    while let Some(command) = commands.recv().await {
        // Nothing forward is released after the abort, which the one that stood still knows nothing of.
        assert_eq!(command.direction(), Direction::Compensation, "{command:?}");
        undone.insert(command.step, command.action_output);
    }
    // What arrived through the one that stood still is on record.
    let late = Some(text("late"));
    assert_eq!(
        undone,
        BTreeMap::from([("one".to_owned(), None), ("two".to_owned(), late)])
    );
}

#[tokio::test]
async fn a_replica_alone_goes_on_after_it_stood_still() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let mut wait = step("a", "wait", &[]);
    wait.phase = Phase::ReadOnly.into();
    wait.kind = Some(step::Kind::Delay(Delay {
        duration: millis(1_500),
    }));
    let steps = vec![wait, step("a", "one", &["wait"]), step("a", "two", &[])];
    zero.define(definition("order", steps)).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 0).await;
    zero.start_saga("order", "s").await;
    let watching = zero.watch("s", 0).await;
    // Meanwhile its lease and the delay run out; nobody takes the one, and the other one is met by a lease that is over.
    zero.freeze(SHORT * 2).await;
    link.credit(10);
    for _ in 0..2 {
        let command = link.command().await;
        assert_eq!(command.attempt, 1, "{command:?}");
        link.answer(&command, success(""));
    }
    let events = watching.all().await;
    assert!(whole(&events), "{events:?}");
    assert_eq!(zero.get("s").await.state(), SagaState::Completed);
    zero.stop().await;
}

#[tokio::test]
async fn what_was_refused_while_a_lease_could_not_be_renewed_is_done_once_it_is() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let mut wait = step("a", "wait", &[]);
    wait.phase = Phase::ReadOnly.into();
    wait.kind = Some(step::Kind::Delay(Delay {
        duration: millis(3_000),
    }));
    let steps = vec![wait, step("a", "one", &["wait"])];
    zero.define(definition("order", steps)).await;
    let mut link = zero.link("a", "a-1", &ACTIONS, 10).await;
    zero.start_saga("order", "s").await;
    // Renewals wait for this row until the lease and the delay are over, and the end of the delay was not written.
    let mut hand = cluster.connection().await;
    let held = hold_renewals(&mut hand).await;
    tokio::time::sleep(SHORT * 2).await;
    let before = zero.get("s").await;
    assert_eq!(state_of(&before, "wait").state(), StepState::Waiting);
    held.rollback().await.expect("let go");
    let command = link.command().await;
    link.answer(&command, success(""));
    assert_eq!(zero.ended("s").await.state(), SagaState::Completed);
    zero.stop().await;
}

#[tokio::test]
async fn a_replica_that_cannot_renew_its_lease_sends_new_work_elsewhere() {
    let Some(cluster) = Cluster::new(SHORT).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let mut health = zero.health().await;
    assert_eq!(health.next().await, ServingStatus::Serving);
    let mut hand = cluster.connection().await;
    let held = hold_renewals(&mut hand).await;
    assert_eq!(health.next().await, ServingStatus::NotServing);
    held.rollback().await.expect("let go");
    assert_eq!(health.next().await, ServingStatus::Serving);
    zero.stop().await;
}

#[tokio::test]
async fn participants_learn_of_replicas_that_come_and_go() {
    let Some(cluster) = Cluster::new(LONG).await else {
        return;
    };
    let zero = cluster.start(0).await;
    let first = participate_request::Message::Hello(hello("a", "a-1", &ACTIONS, 1));
    let mut link = zero.raw_link(first).await.expect("a stream");
    let welcome = match link.next().await.expect("no error") {
        Some(participate_response::Message::Welcome(welcome)) => welcome,
        other => panic!("not a welcome: {other:?}"),
    };
    assert_eq!(welcome.coordinator, "coordinator-0");
    assert_eq!(welcome.peers.len(), 1);
    let one = cluster.start(1).await;
    for expected in [2, 1] {
        let peers = match soon("news", link.next()).await.expect("no error") {
            Some(participate_response::Message::Peers(peers)) => peers.addresses,
            other => panic!("not the replicas: {other:?}"),
        };
        assert_eq!(peers.len(), expected);
        assert!(peers.contains(&welcome.peers[0]));
        if expected == 2 {
            one.tasks().begin_drain();
        }
    }
    one.stop().await;
    zero.stop().await;
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
