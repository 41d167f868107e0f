//! Callers of CancelOrder that wait for what the coordinator says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What the coordinator said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The saga is being undone, or has ended.
    Undoing,
    /// The saga has passed its point of no return.
    TooLate,
}

type Waiting = BTreeMap<String, BTreeMap<u64, oneshot::Sender<Answer>>>;

/// Those who wait, by order. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Cancels {
    waiting: Arc<Mutex<(u64, Waiting)>>,
}

impl Cancels {
    /// Waits for the next answer about this order.
    pub(crate) fn wait(&self, order_id: &str) -> Wait {
        let (tell, answer) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.0 += 1;
        let id = waiting.0;
        waiting
            .1
            .entry(order_id.to_owned())
            .or_default()
            .insert(id, tell);
        drop(waiting);
        Wait {
            cancels: self.clone(),
            order_id: order_id.to_owned(),
            id,
            answer,
        }
    }

    /// Tells everybody who waits for this order.
    pub(crate) fn answer(&self, order_id: &str, answer: Answer) {
        let waiting = self.lock().1.remove(order_id).unwrap_or_default();
        for (_, tell) in waiting {
            // Whoever hung up does not need it.
            let _ = tell.send(answer);
        }
    }

    /// The order is settled: nobody needs to wait for it any more.
    pub(crate) fn close(&self, order_id: &str) {
        self.lock().1.remove(order_id);
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Waiting)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits.
pub(crate) struct Wait {
    cancels: Cancels,
    order_id: String,
    id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Wait {
    /// The answer; `None` when the order was settled without one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.cancels.lock();
        if let Some(order) = waiting.1.get_mut(&self.order_id) {
            order.remove(&self.id);
            if order.is_empty() {
                waiting.1.remove(&self.order_id);
            }
        }
    }
}
