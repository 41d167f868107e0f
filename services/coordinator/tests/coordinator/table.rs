//! The table of sagas on PostgreSQL.

use std::collections::BTreeMap;

use ledger::StoreConfig;
use prost::Message as _;
use sagamesh_api::saga::v1::transition::Kind;
use sagamesh_api::saga::v1::*;
use sqlx::Connection as _;

use crate::evolving::write;
use crate::support::*;

/// Ids in the order of the list, of one customer or of all.
async fn listed(system: &System, page_size: i32, customer: &str) -> Vec<String> {
    let mut filter = SagaFilter::default();
    if !customer.is_empty() {
        let attribute = ("customer".to_owned(), customer.to_owned());
        filter.search_attributes.extend([attribute]);
    }
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSagasRequest {
            filter: Some(filter.clone()),
            page_size,
            page_token,
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

/// Stores a saga that ended at the beginning of time.
async fn stored(database: &mut sqlx::PgConnection, id: &str, customer: &str) {
    let started = Started {
        definition: "order".to_owned(),
        search_attributes: BTreeMap::from([("customer".to_owned(), customer.to_owned())]),
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
    let (stream, data) = (format!("saga/{id}"), event.encode_to_vec());
    write(database, &stream, 1, "saga.v1.SagaEvent", data).await;
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
    let mut database = sqlx::PgConnection::connect(&url)
        .await
        .expect("a connection");
    // Stored before such attributes were refused.
    stored(&mut database, "stored", "a\0b").await;
    system.start_saga("order", "later").await;
    soon("the list", async {
        while listed(&system, 10, "").await != ["later", "stored"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A database that orders texts as people do, if the server knows how.
async fn for_people(server: &ledger::testing::TemporaryPostgres) -> Option<String> {
    let mut database = sqlx::PgConnection::connect(&server.url("postgres"))
        .await
        .expect("a connection");
    let create =
        "CREATE DATABASE for_people LOCALE_PROVIDER icu ICU_LOCALE 'en-US' TEMPLATE template0";
    match sqlx::raw_sql(create).execute(&mut database).await {
        Ok(_) => Some(server.url("for_people")),
        Err(error) => {
            eprintln!("## The order of pages is not tested in a database for people: {error}");
            None
        }
    }
}

#[tokio::test]
async fn pages_miss_nothing_whatever_the_order_of_the_database_is() {
    let Some(server) = ledger::testing::postgres().await else {
        return;
    };
    let Some(url) = for_people(server).await else {
        return;
    };
    let system = System::start_on(StoreConfig::postgres(&url, "coordinator"), options()).await;
    let mut database = sqlx::PgConnection::connect(&url)
        .await
        .expect("a connection");
    let mut ids: Vec<String> = (0..40)
        .map(|number| format!("{}{}", ["a", "B", "_"][number % 3], number % 20))
        .collect();
    for id in &ids {
        stored(&mut database, id, "c1").await;
    }
    // Newest first: they started at one moment, so by their ids.
    ids.sort_unstable_by(|a, b| b.cmp(a));
    soon("the list", async {
        while listed(&system, 500, "").await.len() != ids.len() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for customer in ["", "c1"] {
        assert_eq!(listed(&system, 3, customer).await, ids);
    }
}
