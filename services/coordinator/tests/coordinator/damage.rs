//! Garbage from participants, and records that cannot be read.

use sagamesh_api::saga::v1::*;

use crate::support::*;

#[tokio::test]
async fn results_for_impossible_sagas_are_refused_without_ending_the_stream() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 1).await;
    let long = "x".repeat(129);
    for (saga_id, step, wanted) in [
        ("nul\0", "one", "saga_id"),
        ("", "one", "saga_id"),
        (long.as_str(), "one", "saga_id"),
        ("s-1", long.as_str(), "step"),
    ] {
        a.send(participate_request::Message::Result(Result_ {
            lease_token: 7,
            saga_id: saga_id.to_owned(),
            step: step.to_owned(),
            outcome: Some(success("")),
            ..Result_::default()
        }));
        let ack = a.ack().await;
        assert_eq!(
            (ack.lease_token, ack.status()),
            (7, ResultStatus::Invalid),
            "{saga_id:?}"
        );
        assert!(ack.message.starts_with(wanted), "{}", ack.message);
        assert!(ack.message.len() < 200);
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_stream_with_the_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 1).await;
    a.send(participate_request::Message::Result(Result_ {
        saga_id: "x".repeat(5 << 20),
        ..Result_::default()
    }));
    assert_eq!(reason(&a.end().await), "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn a_saga_whose_record_is_damaged_holds_nothing_else_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = System::start(dir.path()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    let mut a = system.link("a", "a1", &["one.do", "one.undo"], 10).await;
    system.start_saga("order", "bad").await;
    system.start_saga("order", "good").await;
    let (bad, good) = (a.command().await, a.command().await);
    assert_eq!(
        (bad.saga_id.as_str(), good.saga_id.as_str()),
        ("bad", "good")
    );
    // Lists have both: the table follows the log.
    let open = |filter| ListSagasRequest {
        filter: Some(filter),
        ..ListSagasRequest::default()
    };
    soon("the table of sagas", async {
        let filter = SagaFilter {
            definitions: vec!["order".to_owned()],
            ..SagaFilter::default()
        };
        let mut sagas = system.sagas.clone();
        while sagas
            .list_sagas(open(filter.clone()))
            .await
            .expect("a list")
            .into_inner()
            .sagas
            .len()
            < 2
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    system.kill().await;
    let file = std::fs::read_dir(dir.path())
        .expect("the folder")
        .map(|entry| entry.expect("a file").path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "db" || extension == "sqlite")
        })
        .expect("the database");
    damage(&file, "saga/bad").await;

    let system = System::start(dir.path()).await;
    let mut again = hello("a", "a1", &["one.do", "one.undo"], 10);
    again.attempts_in_progress = vec![bad.lease_token, good.lease_token];
    let mut a = system.link_with(again).await.expect("welcome");
    a.answer(&bad, success(""));
    let ack = a.ack().await;
    assert_eq!(ack.status(), ResultStatus::Invalid, "{}", ack.message);
    a.answer(&good, success(""));
    assert_eq!(a.ack().await.status(), ResultStatus::Accepted);
    assert_eq!(system.ended("good").await.state(), SagaState::Completed);
}

async fn damage(file: &std::path::Path, stream: &str) {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    soon("the database to be free", async {
        loop {
            let Ok(mut connection) = sqlx::SqliteConnection::connect_with(&options).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let updated = sqlx::query("UPDATE ledger_events SET data = x'ff' WHERE stream = ?")
                .bind(stream)
                .execute(&mut connection)
                .await;
            if let Ok(updated) = updated {
                assert_eq!(updated.rows_affected(), 1);
                connection.close().await.expect("closed");
                return;
            }
        }
    })
    .await;
}
