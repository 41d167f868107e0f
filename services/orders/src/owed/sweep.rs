//! Finds the orders that are open: all of them at the start, and later those that nobody looked after for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Owed;
use crate::projection::ORDERS;

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);
/// Orders that did not change for this long are looked at.
const QUIET_MILLIS: i64 = 10_000;
/// The longest time between two looks at the same order.
const LONGEST_MILLIS: i64 = 600_000;
/// Orders per query.
const PAGE: usize = 500;

/// What a sweep found.
pub(super) struct Sweep {
    /// Open orders to look after, and whether to ask after their sagas.
    pub(super) found: Vec<(String, bool)>,
    /// When to look at an open order again, and how long that wait was.
    due: BTreeMap<String, (i64, i64)>,
}

/// The sweep at the start: every open order.
pub(super) async fn first(owed: Arc<Owed>) -> Sweep {
    let head = owed.ledger.head();
    if let Err(error) = owed
        .ledger
        .wait_for_projection(ORDERS, head, Duration::from_secs(60))
        .await
    {
        tracing::warn!(%error, "the read side is behind: orders that it does not show yet are found by a later sweep");
    }
    sweep(&owed, BTreeMap::new(), true).await
}

/// The next one, after a while.
pub(super) async fn next(owed: Arc<Owed>, last: Sweep) -> Sweep {
    tokio::time::sleep(INTERVAL).await;
    sweep(&owed, last.due, false).await
}

async fn sweep(owed: &Owed, due: BTreeMap<String, (i64, i64)>, all: bool) -> Sweep {
    let now = owed.env.clock.now_millis();
    let mut sweep = Sweep {
        found: Vec::new(),
        due: BTreeMap::new(),
    };
    let mut after = String::new();
    loop {
        let page = match owed.queries.open(&after, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "open orders could not be listed, trying again later");
                sweep.due.extend(due);
                return sweep;
            }
        };
        let Some(last) = page.last() else {
            return sweep;
        };
        after.clone_from(&last.order_id);
        for open in page {
            let quiet = open.updated <= now - QUIET_MILLIS;
            let (at, wait) = due
                .get(&open.order_id)
                .copied()
                .unwrap_or((0, QUIET_MILLIS));
            let check = quiet && at <= now;
            if check {
                sweep.due.insert(
                    open.order_id.clone(),
                    (now + wait, (wait * 2).min(LONGEST_MILLIS)),
                );
            } else {
                sweep.due.insert(open.order_id.clone(), (at, wait));
            }
            if check || all {
                sweep.found.push((open.order_id, check));
            }
        }
    }
}
