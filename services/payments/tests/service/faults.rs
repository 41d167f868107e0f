//! A disk that fails and a machine that loses power: the log comes before the effect, and the money moves once.

use std::path::Path;
use std::sync::Arc;

use ledger::{SimulatedDisk, StoreConfig};
use participant::Outcome;
use payments::domain::Operation::{Authorize, Capture, Void};
use sagamesh_api::shop::payments::v1::PaymentState;

use crate::shop::Shop;

async fn open(disk: &SimulatedDisk, folder: &Path) -> Shop {
    Shop::on(StoreConfig::simulated(disk), folder).await
}

#[tokio::test]
async fn a_failed_commit_of_the_intent_calls_nobody() {
    let (disk, folder) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let shop = open(&disk, folder.path()).await;
    disk.set_full(true);
    let outcome = shop.authorize("o", "pm_ok").await;
    assert!(
        matches!(outcome, Outcome::Unknown(_) | Outcome::Transient(_)),
        "{outcome:?}"
    );
    assert_eq!(shop.bank.approved("o").await.unwrap(), []);
    disk.set_full(false);
    assert_eq!(shop.authorize("o", "pm_ok").await, Outcome::done());
    assert_eq!(shop.bank.approved("o").await.unwrap(), [Authorize]);
}

#[tokio::test]
async fn a_failed_commit_of_the_outcome_is_made_good_by_the_next_attempt_or_by_the_undo() {
    let (disk, folder) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let shop = open(&disk, folder.path()).await;
    for (order, after) in [("a", false), ("b", true), ("c", false), ("d", true)] {
        shop.intend_to_authorize(order, "pm_ok").await;
        if after {
            disk.fail_after_commit()
        } else {
            disk.fail_before_commit()
        }
        let outcome = shop.authorize(order, "pm_ok").await;
        assert!(!matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
        assert_eq!(shop.bank.approved(order).await.unwrap(), [Authorize]);
    }
    for order in ["a", "b"] {
        assert_eq!(shop.authorize(order, "pm_ok").await, Outcome::done());
        assert_eq!(shop.payment(order).await.state(), PaymentState::Authorized);
        assert_eq!(shop.capture(order).await, Outcome::done());
        assert_eq!(
            shop.bank.approved(order).await.unwrap(),
            [Authorize, Capture]
        );
    }
    for order in ["c", "d"] {
        assert_eq!(shop.void(order).await, Outcome::done());
        assert_eq!(shop.payment(order).await.state(), PaymentState::Voided);
        assert_eq!(shop.bank.approved(order).await.unwrap(), [Authorize, Void]);
    }
    assert_eq!(
        shop.accounts().await,
        [
            ("customer:alice".into(), -2_500),
            ("merchant:EUR".into(), 2_500)
        ]
    );
}

#[tokio::test]
async fn power_is_lost_before_the_intent_is_durable_and_the_bank_was_not_asked() {
    let (disk, folder) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    let shop = Arc::new(open(&disk, folder.path()).await);
    disk.hold_syncs();
    let step = tokio::spawn({
        let shop = Arc::clone(&shop);
        async move { shop.authorize("o", "pm_ok").await }
    });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(shop.bank.approved("o").await.unwrap(), []);
    disk.crash();
    // The process is gone with the power.
    step.abort();
    assert!(step.await.is_err(), "an answer without a durable intent");
    assert_eq!(shop.bank.approved("o").await.unwrap(), []);
    drop(shop);
    disk.release_syncs();
    let shop = open(&disk, folder.path()).await;
    assert_eq!(shop.authorize("o", "pm_ok").await, Outcome::done());
    assert_eq!(
        shop.accounts().await,
        [
            ("authorized:EUR".into(), 1_250),
            ("customer:alice".into(), -1_250)
        ]
    );
}

#[tokio::test]
async fn power_is_lost_after_the_bank_did_it() {
    let (disk, folder) = (SimulatedDisk::new(), tempfile::tempdir().unwrap());
    for (order, undo) in [("forward", false), ("back", true)] {
        let shop = open(&disk, folder.path()).await;
        // The intent is durable and the bank has done the work; the answer never came, and then the power is gone.
        assert!(matches!(
            shop.authorize_in_silence(order).await,
            Outcome::Unknown(_)
        ));
        disk.crash();
        let shop = open(&disk, folder.path()).await;
        if undo {
            assert_eq!(shop.void(order).await, Outcome::done());
            assert_eq!(shop.bank.approved(order).await.unwrap(), [Authorize, Void]);
        } else {
            assert_eq!(
                shop.authorize(order, "pm_timeout_authorize").await,
                Outcome::done()
            );
            assert_eq!(shop.bank.approved(order).await.unwrap(), [Authorize]);
        }
        shop.stop().await;
    }
}
