//! Nothing is sold twice, however many want it.

use std::sync::Arc;

use participant::Outcome;
use tokio::task::JoinSet;

use crate::shop::{Shop, reason};

/// Cups and beans held, cups and beans sold: none.
const NOTHING: (u64, u64, u64, u64) = (0, 0, 0, 0);

#[tokio::test]
async fn concurrent_reservations_never_oversell() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Arc::new(Shop::open(folder.path()).await);
    shop.stock("cup", 100).await;
    shop.stock("bean", 150).await;
    let mut running = JoinSet::new();
    for number in 0..200u64 {
        let shop = Arc::clone(&shop);
        running.spawn(async move {
            let (cups, beans) = (1 + number % 3, 1 + number % 2);
            // In both orders of the lines: the streams are always taken in one.
            let (first, second) = if number % 2 == 0 {
                (("cup", cups), ("bean", beans))
            } else {
                (("bean", beans), ("cup", cups))
            };
            let lines = format!(
                r#"[{{"sku":"{}","quantity":{}}},{{"sku":"{}","quantity":{}}}]"#,
                first.0, first.1, second.0, second.1
            );
            let order = format!("order-{number}");
            let outcome = shop.reserve(&order, &lines).await;
            if outcome != Outcome::done() {
                assert_eq!(reason(&outcome), "INSUFFICIENT_STOCK", "{outcome:?}");
                return NOTHING;
            }
            // A third is released, a third is committed, a third stays.
            match number % 3 {
                0 => {
                    assert_eq!(shop.release(&order).await, Outcome::done());
                    (0, 0, 0, 0)
                }
                1 => {
                    assert_eq!(shop.commit(&order).await, Outcome::done());
                    (0, 0, cups, beans)
                }
                _ => (cups, beans, 0, 0),
            }
        });
    }
    let outcomes = running.join_all().await;
    let sum = |part: fn(&(u64, u64, u64, u64)) -> u64| outcomes.iter().map(part).sum::<u64>();
    let (cups, beans) = (shop.counts("cup").await, shop.counts("bean").await);
    assert_eq!((cups.1, beans.1), (sum(|held| held.0), sum(|held| held.1)));
    assert_eq!((cups.2, beans.2), (sum(|held| held.2), sum(|held| held.3)));
    assert_eq!(
        (cups.0 + cups.1 + cups.2, beans.0 + beans.1 + beans.2),
        (100, 150)
    );
    assert!(
        outcomes.iter().any(|held| held.0 > 0),
        "somebody got something"
    );
    assert!(
        outcomes.contains(&NOTHING),
        "it was not enough for everybody"
    );
}

#[tokio::test]
async fn a_long_item_is_read_from_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open(folder.path()).await;
    shop.stock("cup", 10_000).await;
    for number in 0..250 {
        let order = format!("order-{number}");
        assert_eq!(
            shop.reserve(&order, r#"[{"sku":"cup","quantity":3}]"#)
                .await,
            Outcome::done()
        );
    }
    assert_eq!(shop.commit("order-0").await, Outcome::done());
    shop.stop().await;
    let shop = Shop::open(folder.path()).await;
    assert_eq!(shop.release("order-1").await, Outcome::done());
    assert_eq!(
        reason(
            &shop
                .reserve("big", r#"[{"sku":"cup","quantity":9254}]"#)
                .await
        ),
        "INSUFFICIENT_STOCK"
    );
    assert_eq!(
        shop.reserve("all", r#"[{"sku":"cup","quantity":9253}]"#)
            .await,
        Outcome::done()
    );
    assert_eq!(shop.counts("cup").await, (0, 248 * 3 + 9253, 3));
}
