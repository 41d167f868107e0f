//! The table of sagas on PostgreSQL.

use std::collections::BTreeMap;

use ledger::StoreConfig;
use prost::Message as _;
use sagamesh_api::saga::v1::transition::Kind;
use sagamesh_api::saga::v1::*;
use sqlx::Connection as _;

use crate::evolving::write;
use crate::support::*;

/// Ids in the order of the list.
async fn listed(system: &System, page_size: i32) -> Vec<String> {
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSagasRequest {
            page_size,
            page_token,
            ..ListSagasRequest::default()
        };
        let page = system.sagas.clone().list_sagas(request).await;
        let page = page.expect("a page").into_inner();
        ids.extend(page.sagas.into_iter().map(|saga| saga.saga_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

#[tokio::test]
async fn an_attribute_that_postgresql_cannot_keep_does_not_stop_the_table() {
    let Some(server) = ledger::testing::postgres().await else {
        return;
    };
    let url = server.database().await;
    let system = System::start_on(StoreConfig::postgres(&url, "coordinator"), options()).await;
    system
        .define(definition("order", vec![step("a", "one", &[])]))
        .await;
    // Stored before such attributes were refused.
    let started = Started {
        definition: "order".to_owned(),
        search_attributes: BTreeMap::from([("customer".to_owned(), "a\0b".to_owned())]),
        ..Started::default()
    };
    let ended = Ended {
        state: SagaState::Completed.into(),
        ..Ended::default()
    };
    let event = SagaEvent {
        transitions: [Kind::Started(started), Kind::Ended(ended)]
            .map(|kind| Transition { kind: Some(kind) })
            .to_vec(),
        event_time: Some(prost_types::Timestamp::default()),
        ..SagaEvent::default()
    };
    let mut database = sqlx::PgConnection::connect(&url)
        .await
        .expect("a connection");
    let (data, kind) = (event.encode_to_vec(), "saga.v1.SagaEvent");
    write(&mut database, "saga/stored", 1, kind, data).await;
    system.start_saga("order", "later").await;
    soon("the list", async {
        while listed(&system, 10).await != ["later", "stored"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
