//! Versions side by side: participants of older and newer protocols, records of a newer coordinator, definitions that gain steps
//! while sagas of the earlier version run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordinator::Options;
use ledger::StoreConfig;
use prost::Message as _;
use sagamesh_api::saga::v1::*;
use sqlx::Connection as _;
use tonic::Code;

use crate::support::*;

const ACTIONS: &[&str] = &["one.do", "one.undo"];

fn speaking(minimum: u32, newest: u32, instance: &str) -> Hello {
    Hello {
        protocol_version: newest,
        minimum_protocol_version: minimum,
        ..hello("a", instance, ACTIONS, 1)
    }
}

/// What the stream is welcomed with.
async fn welcome(system: &System, hello: Hello) -> (u32, Link) {
    let first = participate_request::Message::Hello(hello);
    let mut link = system.raw_link(first).await.expect("a stream");
    match link.next().await.expect("no error") {
        Some(participate_response::Message::Welcome(it)) => (it.protocol_version, link),
        other => panic!("not a welcome: {other:?}"),
    }
}

#[tokio::test]
async fn participants_of_other_versions_are_served_with_what_both_speak() {
    let dir = tempfile::tempdir().expect("a folder");
    // The next version of the coordinator, which still speaks the first.
    let options = Options {
        protocol: 1..=2,
        ..options()
    };
    let system = System::start_with(dir.path(), options).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    for (number, (minimum, newest, spoken)) in [(0, 0, 1), (1, 1, 1), (1, 2, 2), (2, 3, 2)]
        .into_iter()
        .enumerate()
    {
        let (version, mut link) = welcome(&system, speaking(minimum, newest, "i")).await;
        assert_eq!(version, spoken, "of {minimum} to {newest}");
        let id = format!("s-{number}");
        system.start_saga("order", &id).await;
        let command = link.command().await;
        link.answer(&command, success(""));
        assert_eq!(system.ended(&id).await.state(), SagaState::Completed);
    }
    let refused = system.link_with(speaking(3, 4, "i")).await;
    let refused = refused.err().expect("it requires more");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "PROTOCOL_VERSION_TOO_NEW")
    );
    assert!(
        refused.message().contains("update the coordinator first"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_version_that_was_left_behind_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = Options {
        protocol: 2..=3,
        ..options()
    };
    let system = System::start_with(dir.path(), options).await;
    for hello in [speaking(0, 0, "i"), speaking(1, 1, "i")] {
        let refused = system.link_with(hello).await.err().expect("too old");
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "PROTOCOL_VERSION_TOO_OLD")
        );
        assert!(
            refused
                .message()
                .contains("update the participant's library"),
            "{refused:?}"
        );
    }
    assert_eq!(welcome(&system, speaking(1, 2, "i")).await.0, 2);
}

/// Appends to the log as a coordinator does that is newer than this one.
pub(crate) async fn write(
    database: &mut sqlx::PgConnection,
    stream: &str,
    version: i64,
    kind: &str,
    data: Vec<u8>,
) {
    let mut tx = database.begin().await.expect("a transaction");
    let head =
        "UPDATE coordinator.ledger_shards SET head = head + 1 WHERE shard = 0 RETURNING head";
    let position: i64 = sqlx::query_scalar(head)
        .fetch_one(&mut *tx)
        .await
        .expect("a head");
    let insert = "INSERT INTO coordinator.ledger_events (shard, position, stream, version, type, data, commit_time) VALUES (0, $1, $2, $3, $4, $5, 0)";
    sqlx::query(insert)
        .bind(position)
        .bind(stream)
        .bind(version)
        .bind(kind)
        .bind(data)
        .execute(&mut *tx)
        .await
        .expect("written");
    tx.commit().await.expect("committed");
}

#[tokio::test]
async fn what_a_newer_coordinator_wrote_is_left_to_it() {
    /// An event whose transition is of a kind that only the next version knows.
    const NEWER: &[u8] = &[0x1a, 0x03, 0x9a, 0x06, 0x00];
    let Some(server) = ledger::testing::postgres().await else {
        return;
    };
    let url = server.database().await;
    let start = || async {
        let options = Options {
            lease: Duration::from_secs(3600),
            ..options()
        };
        System::start_on(StoreConfig::postgres(&url, "coordinator"), options).await
    };
    let system = start().await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let mut a = system.link("a", "a1", ACTIONS, 10).await;
    for id in ["newer", "plain"] {
        system.start_saga("order", id).await;
    }
    let (newer, plain) = (a.command().await, a.command().await);
    system.kill().await;

    // A newer replica had the shard for a while.
    let mut database = sqlx::PgConnection::connect(&url)
        .await
        .expect("a connection");
    assert_eq!(
        SagaEvent::decode(NEWER)
            .expect("an event")
            .transitions
            .len(),
        1
    );
    write(
        &mut database,
        "saga/newer",
        2,
        "saga.v1.SagaEvent",
        NEWER.to_vec(),
    )
    .await;
    write(
        &mut database,
        "definition/later",
        1,
        "saga.v1.DefinitionLater",
        vec![0],
    )
    .await;
    // It may have been paused: nothing is sent to it.
    write(
        &mut database,
        "participant/b",
        1,
        "saga.v1.ParticipantLater",
        vec![0],
    )
    .await;
    write(
        &mut database,
        "participant/later",
        1,
        "saga.v1.ParticipantLater",
        vec![0],
    )
    .await;
    // Its definitions say more than this version reads: the hash is that of the whole.
    let mut future = DefinitionRegistered {
        definition: Some(definition("future", vec![step("a", "one", &[])])),
        hash: "hash-of-all-that-it-says".to_owned(),
        register_time: None,
    }
    .encode_to_vec();
    future.extend_from_slice(&[0x9a, 0x06, 0x00]);
    let hash = "hash-of-all-that-it-says".to_owned();
    let active = DefinitionActivated { hash: hash.clone() }.encode_to_vec();
    write(
        &mut database,
        "definition/future",
        1,
        "saga.v1.DefinitionRegistered",
        future,
    )
    .await;
    write(
        &mut database,
        "definition/future",
        2,
        "saga.v1.DefinitionActivated",
        active,
    )
    .await;
    let started = SagaEvent {
        transitions: vec![Transition {
            kind: Some(transition::Kind::Started(Started {
                definition: "future".to_owned(),
                definition_hash: hash,
                ..Started::default()
            })),
        }],
        ..SagaEvent::default()
    };
    let started = started.encode_to_vec();
    write(
        &mut database,
        "saga/future",
        1,
        "saga.v1.SagaEvent",
        started,
    )
    .await;

    // This version starts, goes on with what it understands, and with nothing else.
    let system = start().await;
    let mut again = hello("a", "a1", ACTIONS, 10);
    again.attempts_in_progress = vec![newer.lease_token, plain.lease_token];
    let mut a = system.link_with(again).await.expect("welcome");
    a.answer(&newer, success(""));
    a.answer(&plain, success(""));
    assert_eq!(system.ended("plain").await.state(), SagaState::Completed);
    assert_eq!(a.ack().await.status(), ResultStatus::Invalid);
    let listed = system
        .operators
        .clone()
        .list_participants(ListParticipantsRequest::default())
        .await;
    let listed = listed.expect("participants").into_inner().participants;
    let paused = |name: &str| {
        let found = listed.iter().find(|one| one.name == name);
        found.map(|one| one.paused)
    };
    assert_eq!((paused("a"), paused("b")), (Some(false), Some(true)));
    system.start_saga("order", "after").await;
    let command = a.command().await;
    assert_eq!(command.saga_id, "after", "nothing of the others is sent");
    a.answer(&command, success(""));
    assert_eq!(system.ended("after").await.state(), SagaState::Completed);
    let refused = system
        .try_start(crate::shapes::start("future", "mine"))
        .await;
    assert_eq!(
        reason(&refused.expect_err("not understood")),
        "DEFINITION_VERSION_NOT_FOUND"
    );
    let cancel = CancelSagaRequest {
        saga_id: "newer".to_owned(),
        reason: "no more".to_owned(),
    };
    let refused = system.sagas.clone().cancel_saga(cancel).await;
    let refused = refused.expect_err("it cannot be decided about");
    assert!(refused.message().contains("newer program"), "{refused:?}");
    // Whoever can read them finds them as they were.
    for (stream, events) in [
        ("saga/newer", 2_i64),
        ("saga/future", 1),
        ("definition/later", 1),
        ("definition/future", 2),
        ("participant/b", 1),
        ("participant/later", 1),
    ] {
        let count = "SELECT count(*) FROM coordinator.ledger_events WHERE stream = $1";
        let found: i64 = sqlx::query_scalar(count)
            .bind(stream)
            .fetch_one(&mut database)
            .await
            .expect("a count");
        assert_eq!(found, events, "{stream}");
    }
    system.stop().await;
}

/// A participant that does everything it is asked, and says what that was.
async fn worker(
    system: &System,
    instance: &str,
    actions: &[&str],
) -> Arc<Mutex<Vec<(String, String)>>> {
    let done = Arc::new(Mutex::new(Vec::new()));
    let mut link = system.link("a", instance, actions, 100).await;
    let log = Arc::clone(&done);
    tokio::spawn(async move {
        while let Ok(Some(message)) = link.next().await {
            if let participate_response::Message::Command(command) = message {
                let what = (command.saga_id.clone(), command.step.clone());
                log.lock().expect("not poisoned").push(what);
                link.answer(&command, success(""));
                link.credit(1);
            }
        }
    });
    done
}

#[tokio::test]
async fn a_definition_gains_a_step_while_sagas_and_participants_of_both_versions_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let first = system
        .define(definition(
            "order",
            vec![step("a", "one", &[]), step("b", "last", &["one"])],
        ))
        .await;
    // Sagas of the first version are in the middle when the second one comes.
    let mut b = system
        .link("b", "b-1", &["last.do", "last.undo"], 100)
        .await;
    let old = worker(&system, "a-old", &["one.do", "one.undo"]).await;
    for number in 0..5 {
        system.start_saga("order", &format!("first-{number}")).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(b.command().await);
    }
    // The participant is rolled first: the new one knows both steps. Then the definition.
    let new = worker(
        &system,
        "a-new",
        &["one.do", "one.undo", "two.do", "two.undo"],
    )
    .await;
    let steps = vec![
        step("a", "one", &[]),
        step("a", "two", &["one"]),
        step("b", "last", &["two"]),
    ];
    let second = system.define(definition("order", steps)).await;
    assert_ne!(first, second);
    for number in 0..5 {
        system
            .start_saga("order", &format!("second-{number}"))
            .await;
    }
    for _ in 0..5 {
        waiting.push(b.command().await);
    }
    for command in &waiting {
        b.answer(command, success(""));
    }
    for number in 0..5 {
        for (version, hash, steps) in [("first", &first, 2), ("second", &second, 3)] {
            let saga = system.ended(&format!("{version}-{number}")).await;
            assert_eq!(saga.state(), SagaState::Completed);
            assert_eq!((&saga.definition_hash, saga.steps.len()), (hash, steps));
        }
    }
    let (old, new) = (
        old.lock().expect("not poisoned").clone(),
        new.lock().expect("not poisoned").clone(),
    );
    // The old instance was never asked for what it does not know, and both shared what they know.
    assert!(old.iter().all(|(_, step)| step == "one"), "{old:?}");
    let twos = new.iter().filter(|(_, step)| step == "two");
    let mut twos: Vec<_> = twos.map(|(saga, _)| saga.as_str()).collect();
    twos.sort_unstable();
    assert_eq!(
        twos,
        ["second-0", "second-1", "second-2", "second-3", "second-4"]
    );
    assert_eq!(old.len() + new.len(), 15, "{old:?} {new:?}");
}
