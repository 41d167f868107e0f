//! The same on PostgreSQL, with two replicas on one database.

use std::sync::Arc;
use std::time::Duration;

use inventory::queries::{self, Due};
use ledger::StoreConfig;
use participant::Outcome;
use sagamesh_api::shop::inventory::v1::ReservationState;
use tokio::task::JoinSet;

use crate::shop::{Shop, reason, request};

const TTL: Duration = Duration::from_secs(900);

#[tokio::test]
async fn two_replicas_on_one_database_never_oversell() {
    let Some(cluster) = ledger::testing::postgres().await else {
        return;
    };
    let url = cluster.database().await;
    let open = async || Arc::new(Shop::on(StoreConfig::postgres(&url, "inventory"), TTL).await);
    let replicas = [open().await, open().await];
    let wanted = request("cup", 30);
    let first = replicas[0].restock(wanted.clone()).await.unwrap();
    assert_eq!(replicas[1].restock(wanted).await.unwrap().item, first.item);
    replicas[1].stock("bean", 100).await;

    let mut running = JoinSet::new();
    for number in 0..60 {
        let shop = Arc::clone(&replicas[number % 2]);
        running.spawn(async move {
            let order = format!("order-{number}");
            let lines = r#"[{"sku":"cup","quantity":1},{"sku":"bean","quantity":1}]"#;
            let mut outcome = shop.reserve(&order, lines).await;
            // Two writers on one row may give up on each other; the coordinator would send the step again.
            while matches!(outcome, Outcome::Transient(_)) {
                outcome = shop.reserve(&order, lines).await;
            }
            let reserved = outcome == Outcome::done();
            assert!(
                reserved || reason(&outcome) == "INSUFFICIENT_STOCK",
                "{outcome:?}"
            );
            reserved
        });
    }
    let reserved = running
        .join_all()
        .await
        .into_iter()
        .filter(|reserved| *reserved)
        .count();
    assert_eq!(reserved, 30);
    let heads = replicas.iter().map(|replica| replica.ledger.head());
    let newest = heads.max().unwrap();
    assert_eq!(replicas[0].counts_at("cup", newest).await, (0, 30, 0));
    assert_eq!(replicas[0].counts_at("bean", newest).await, (70, 30, 0));
}

#[tokio::test]
async fn a_reservation_goes_round_on_postgres() {
    let Some(cluster) = ledger::testing::postgres().await else {
        return;
    };
    let shop = Shop::on(
        StoreConfig::postgres(cluster.database().await, "inventory"),
        TTL,
    )
    .await;
    shop.stock("cup", 5).await;
    assert_eq!(
        shop.reserve("o", r#"[{"sku":"cup","quantity":2}]"#).await,
        Outcome::done()
    );
    assert_eq!(shop.commit("o").await, Outcome::done());
    assert_eq!(shop.counts("cup").await, (3, 0, 2));
    assert_eq!(shop.give_back("o").await, Outcome::done());
    assert_eq!(shop.counts("cup").await, (5, 0, 0));
    assert_eq!(
        shop.reservation("o").await.unwrap().state(),
        ReservationState::Returned
    );
    assert_eq!(
        reason(&shop.reserve("p", r#"[{"sku":"cup","quantity":6}]"#).await),
        "INSUFFICIENT_STOCK"
    );
    let first = Due {
        id: String::new(),
        expire_millis: i64::MIN,
    };
    assert_eq!(
        queries::due(&shop.ledger.reader(), i64::MAX, &first, 10)
            .await
            .unwrap(),
        []
    );
    shop.stop().await;
}
