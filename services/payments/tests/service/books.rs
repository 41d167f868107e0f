//! The books balance at every instant, whatever runs at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use payments::domain::Operation;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sagamesh_api::shop::payments::v1::PaymentState;
use tokio::task::JoinSet;

use crate::shop::Shop;

#[derive(Clone, Copy, Debug)]
enum Act {
    Authorize,
    Void,
    Capture,
    Refund,
}

async fn act(shop: Arc<Shop>, order: String, act: Act) {
    // What each of them answers does not matter here: any may be too early, too late or too often.
    let _ = match act {
        Act::Authorize => shop.authorize(&order, "pm_ok").await,
        Act::Void => shop.void(&order).await,
        Act::Capture => shop.capture(&order).await,
        Act::Refund => shop.refund(&order).await,
    };
}

#[test]
fn books_and_bank_agree_after_any_schedule_on_the_running_service() {
    let acts = prop::sample::select(vec![
        Act::Authorize,
        Act::Authorize,
        Act::Capture,
        Act::Void,
        Act::Refund,
    ]);
    let schedule = prop::collection::vec((0..5usize, acts), 10..60);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(8));
    runner
        .run(&schedule, |schedule| {
            runtime.block_on(async {
                let folder = tempfile::tempdir().unwrap();
                let shop = Arc::new(Shop::open(folder.path()).await);
                let done = Arc::new(AtomicBool::new(false));
                let auditor = tokio::spawn(audit(Arc::clone(&shop), Arc::clone(&done)));
                let mut running = JoinSet::new();
                for (order, what) in schedule {
                    running.spawn(act(Arc::clone(&shop), format!("order-{order}"), what));
                }
                running.join_all().await;
                done.store(true, Ordering::Relaxed);
                let audits = auditor.await.unwrap();
                assert!(audits > 0);
                for order in 0..5 {
                    agrees(&shop, &format!("order-{order}")).await;
                }
            });
            Ok(())
        })
        .unwrap();
}

/// Reads the trial balance over and over.
async fn audit(shop: Arc<Shop>, done: Arc<AtomicBool>) -> usize {
    let mut audits = 0;
    let mut position = 0;
    while !done.load(Ordering::Relaxed) {
        let balance = shop.balance().await;
        assert!(balance.balanced, "{balance:?}");
        assert_eq!(
            balance.accounts.iter().map(minor).sum::<i64>(),
            0,
            "{balance:?}"
        );
        assert!(balance.position >= position);
        position = balance.position;
        audits += 1;
    }
    audits
}

fn minor(account: &sagamesh_api::shop::payments::v1::Account) -> i64 {
    account
        .balance
        .as_ref()
        .map_or(0, |money| money.minor_units)
}

/// What we say about the money is what the bank says.
async fn agrees(shop: &Shop, order: &str) {
    let approved = shop.bank.approved(order).await.unwrap();
    if approved.is_empty() {
        return;
    }
    let has = |operation| approved.contains(&operation);
    let expected = if has(Operation::Refund) {
        PaymentState::Refunded
    } else if has(Operation::Capture) {
        PaymentState::Captured
    } else if has(Operation::Void) {
        PaymentState::Voided
    } else {
        PaymentState::Authorized
    };
    assert_eq!(
        shop.payment(order).await.state(),
        expected,
        "{order}: the bank did {approved:?}"
    );
}
