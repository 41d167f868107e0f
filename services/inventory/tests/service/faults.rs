//! A disk that fails and a machine that loses power: a reservation is whole or not there.

use std::sync::Arc;
use std::time::Duration;

use inventory::decider::{Command, Reply};
use inventory::domain::{self, Line};
use ledger::{SimulatedDisk, StoreConfig};
use participant::Outcome;

use crate::shop::{Shop, reason, request};

const TTL: Duration = Duration::from_secs(900);
const LINES: &str = r#"[{"sku":"cup","quantity":2},{"sku":"bean","quantity":1}]"#;

async fn open(disk: &SimulatedDisk) -> Shop {
    Shop::on(StoreConfig::simulated(disk), TTL).await
}

async fn stocked(disk: &SimulatedDisk) -> Shop {
    let shop = open(disk).await;
    shop.stock("cup", 10).await;
    shop.stock("bean", 10).await;
    shop
}

#[tokio::test]
async fn a_failed_commit_reserves_nothing_and_the_next_attempt_works() {
    let disk = SimulatedDisk::new();
    let shop = stocked(&disk).await;
    disk.fail_before_commit();
    let outcome = shop.reserve("o", LINES).await;
    assert!(
        matches!(
            outcome,
            Outcome::Success(_) | Outcome::Transient(_) | Outcome::Unknown(_)
        ),
        "{outcome:?}"
    );
    assert_eq!(shop.reserve("o", LINES).await, Outcome::done());
    assert_eq!(
        (shop.counts("cup").await, shop.counts("bean").await),
        ((8, 2, 0), (9, 1, 0))
    );
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_once() {
    let disk = SimulatedDisk::new();
    let shop = stocked(&disk).await;
    disk.fail_after_commit();
    let outcome = shop.reserve("o", LINES).await;
    assert!(
        matches!(
            outcome,
            Outcome::Success(_) | Outcome::Transient(_) | Outcome::Unknown(_)
        ),
        "{outcome:?}"
    );
    assert_eq!(shop.reserve("o", LINES).await, Outcome::done());
    assert_eq!(shop.counts("cup").await, (8, 2, 0));
    let wanted = request("cup", 5);
    disk.fail_after_commit();
    // Answered or not: the same request again is answered, and counts once.
    let _ = shop.restock(wanted.clone()).await;
    shop.restock(wanted).await.unwrap();
    assert_eq!(shop.counts("cup").await, (13, 2, 0));
}

#[tokio::test]
async fn power_is_lost_while_reservations_are_on_their_way() {
    let disk = SimulatedDisk::new();
    let shop = Arc::new(stocked(&disk).await);
    disk.hold_syncs();
    let under_way: Vec<_> = (0..4)
        .map(|number| {
            let shop = Arc::clone(&shop);
            tokio::spawn(async move { shop.reserve(&format!("order-{number}"), LINES).await })
        })
        .collect();
    tokio::task::yield_now().await;
    disk.crash();
    for step in under_way {
        // The process is gone with the power; until then nothing may have been answered that is not durable.
        step.abort();
        assert!(!matches!(
            step.await,
            Ok(Outcome::Success(_) | Outcome::Rejected(_))
        ));
    }
    disk.release_syncs();
    let shop = open(&disk).await;
    assert_eq!(shop.counts("cup").await, (10, 0, 0));
    for number in 0..4 {
        assert_eq!(
            shop.reserve(&format!("order-{number}"), LINES).await,
            Outcome::done()
        );
    }
    assert_eq!(
        (shop.counts("cup").await, shop.counts("bean").await),
        ((2, 8, 0), (6, 4, 0))
    );
}

#[tokio::test]
async fn a_full_disk_refuses_clearly_and_goes_on_when_there_is_room() {
    let disk = SimulatedDisk::new();
    let shop = stocked(&disk).await;
    disk.set_full(true);
    let outcome = shop.reserve("o", LINES).await;
    assert_eq!(reason(&outcome), "STORAGE_FAILED", "{outcome:?}");
    let status = shop.restock(request("cup", 1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    disk.set_full(false);
    assert_eq!(shop.reserve("o", LINES).await, Outcome::done());
    assert_eq!(shop.counts("cup").await, (8, 2, 0));
}

#[tokio::test]
async fn a_release_works_when_the_barriers_row_is_too_old_to_be_kept() {
    let disk = SimulatedDisk::new();
    let shop = stocked(&disk).await;
    // Reserved without a row, as if the row had been pruned.
    let reserve = domain::Command::Reserve {
        reservation_id: "o".into(),
        lines: vec![Line {
            sku: "cup".into(),
            quantity: 2,
        }],
        currency: None,
        expire_millis: 0,
    };
    assert_eq!(
        shop.ledger
            .execute(Command::Own(reserve))
            .await
            .unwrap()
            .reply,
        Reply::Settled { changed: true }
    );
    for _ in 0..2 {
        assert_eq!(shop.release("o").await, Outcome::done());
    }
    assert_eq!(shop.counts("cup").await, (10, 0, 0));
    assert_eq!(
        reason(&shop.reserve("o", LINES).await),
        "COMPENSATED_BEFORE"
    );
}
