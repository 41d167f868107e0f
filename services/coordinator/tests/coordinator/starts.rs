//! Starting: idempotence, conflicts, limits, retention.

use std::collections::BTreeMap;
use std::time::Duration;

use sagamesh_api::saga::v1::*;

use crate::support::*;

#[tokio::test]
async fn the_same_start_answers_with_the_saga_and_another_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let first = system
        .try_start(start("order", "s-1"))
        .await
        .expect("started");
    let again = system
        .try_start(start("order", "s-1"))
        .await
        .expect("the same");
    assert_eq!((first.created, again.created), (true, false));
    let mut other = start("order", "s-1");
    other.input.insert("order".to_owned(), text("coffee"));
    let refused = system.try_start(other).await.expect_err("another");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::AlreadyExists, "SAGA_ID_REUSED")
    );
    // A race of equals has one winner, and everybody gets its saga.
    let race =
        futures_util::future::join_all((0..20).map(|_| system.try_start(start("order", "s-2"))))
            .await;
    assert_eq!(
        race.iter()
            .filter(|one| one.as_ref().expect("answered").created)
            .count(),
        1
    );
}

#[tokio::test]
async fn bad_starts_are_refused_with_every_field() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let bad = StartSagaRequest {
        saga_id: "with space".to_owned(),
        definition: "Order".to_owned(),
        input: BTreeMap::from([
            ("Bad Field".to_owned(), text("x")),
            ("empty".to_owned(), Value::default()),
        ]),
        search_attributes: BTreeMap::from([
            ("k".to_owned(), "v".repeat(257)),
            ("line".to_owned(), "a\nb".to_owned()),
            ("nul".to_owned(), "a\0b".to_owned()),
        ]),
        wait: millis(60_001),
        deadline: millis(-5),
        ..StartSagaRequest::default()
    };
    let refused = system.try_start(bad).await.expect_err("bad");
    let fields: Vec<_> = chassis::problem::fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        [
            "saga_id",
            "definition",
            "input[\"Bad Field\"]",
            "input[\"empty\"]",
            "search_attributes[\"k\"]",
            "search_attributes[\"line\"]",
            "search_attributes[\"nul\"]",
            "wait",
            "deadline"
        ]
    );
    let unknown = system
        .try_start(start("nothing", "s-1"))
        .await
        .expect_err("unknown");
    assert_eq!(
        (unknown.code(), reason(&unknown).as_str()),
        (tonic::Code::NotFound, "DEFINITION_NOT_FOUND")
    );

    let mut large = start("order", "s-1");
    large
        .input
        .insert("blob".to_owned(), text(&"x".repeat(1_048_570)));
    let refused = system.try_start(large).await.expect_err("too large");
    assert_eq!(chassis::problem::fields(&refused)[0].0, "input");
    assert!(
        refused.message().contains("at most 1048576"),
        "{}",
        refused.message()
    );
    let mut fits = start("order", "s-1");
    fits.input
        .insert("blob".to_owned(), text(&"x".repeat(1_000_000)));
    system.try_start(fits).await.expect("it fits");
    assert_eq!(
        reason(&system.try_get("s-9").await.expect_err("missing")),
        "SAGA_NOT_FOUND"
    );
}

#[tokio::test]
async fn many_starts_over_one_stream() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    system
        .worker("a", &["one.do", "one.undo"], |_| Some(success("")))
        .await;
    let requests = (0..300u64).map(|number| {
        let mut request = start(
            if number == 7 { "nothing" } else { "order" },
            &format!("s-{number}"),
        );
        request.wait = millis(20_000);
        StartSagasRequest {
            correlation_id: number,
            start: Some(request),
        }
    });
    let mut answers = system
        .sagas
        .clone()
        .start_sagas(tokio_stream::iter(requests.collect::<Vec<_>>()))
        .await
        .expect("a stream")
        .into_inner();
    let mut seen = BTreeMap::new();
    while let Some(answer) = soon("an answer", answers.message())
        .await
        .expect("no error")
    {
        seen.insert(answer.correlation_id, answer.result.expect("a result"));
    }
    assert_eq!(seen.len(), 300);
    for (number, result) in seen {
        match result {
            start_sagas_response::Result::Started(started) => assert_eq!(
                started.saga.expect("a saga").state(),
                SagaState::Completed,
                "{number}"
            ),
            start_sagas_response::Result::Error(status) => {
                assert_eq!(number, 7);
                let status = tonic::Status::with_details(tonic::Code::NotFound, "", status.into());
                assert_eq!(reason(&status), "DEFINITION_NOT_FOUND");
            }
        }
    }
}

#[tokio::test]
async fn ended_sagas_leave_after_their_retention_and_their_ids_are_free_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = options();
    options.retention_interval = Duration::from_millis(50);
    let system = System::start_with(dir.path(), options).await;
    let mut order = definition("order", vec![step("a", "one", &[])]);
    order.retention = millis(1_000);
    system.define(order).await;
    system
        .define(definition("kept", vec![step("a", "one", &[])]))
        .await;
    system
        .worker("a", &["one.do", "one.undo"], |_| Some(success("")))
        .await;
    for id in ["s-1", "s-2"] {
        system.start_saga("order", id).await;
        system.ended(id).await;
    }
    system.start_saga("kept", "k-1").await;
    system.ended("k-1").await;
    soon("the sagas to leave", async {
        while system.try_get("s-1").await.is_ok() || system.try_get("s-2").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(system.get("k-1").await.state(), SagaState::Completed);
    let mut other = start("order", "s-1");
    other.input.clear();
    assert!(system.try_start(other).await.expect("free again").created);
    assert_eq!(system.ended("s-1").await.state(), SagaState::Completed);
    system.kill().await;
    let system = System::start(dir.path()).await;
    assert_eq!(system.get("k-1").await.state(), SagaState::Completed);
}
