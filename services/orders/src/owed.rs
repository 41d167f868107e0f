//! Does what orders owe to the coordinator: starts sagas, cancels them, and finds out what became of those that ended without telling.
//!
//! The log is the outbox. What an order owes follows from its state ([`crate::domain::outstanding`]); an order is looked after from the moment
//! its commit is durable ([`Observer`]), and again after a restart or when another replica went away (the sweep over open orders). Every call
//! names the saga, so that doing it twice is doing it once.

mod settle;
mod sweep;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chassis::Env;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ledger::{Committed, Ledger};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::coordinator::Coordinator;
use crate::decider::Orders;
use crate::domain::{OrderState, outstanding};
use crate::queries::Queries;
use sweep::Sweep;

/// Orders that are looked after at the same time; more wait for their turn.
const AT_ONCE: usize = 2_048;

/// An order that owes something, or that stopped owing it.
pub(crate) struct Note {
    order_id: String,
    /// Its state, when that is known.
    state: Option<Box<OrderState>>,
}

/// Tells the task about commits.
pub(crate) struct Observer {
    notes: mpsc::UnboundedSender<Note>,
}

impl ledger::Observer<Orders> for Observer {
    fn committed(&mut self, commits: &[Committed<'_, Orders>]) {
        for commit in commits {
            let owes = !outstanding(commit.state).is_empty();
            // A cancelled order that ended wakes whoever asks the coordinator about it.
            if owes || commit.state.cancelled {
                let state = owes.then(|| Box::new(commit.state.clone()));
                // The receiver is gone only when the process ends.
                let _ = self.notes.send(Note {
                    order_id: commit.stream.key().to_owned(),
                    state,
                });
            }
        }
    }
}

/// Where notes go, and where they come from.
pub(crate) fn channel() -> (Observer, mpsc::UnboundedReceiver<Note>) {
    let (notes, inbox) = mpsc::unbounded_channel();
    (Observer { notes }, inbox)
}

/// What settling an order needs.
pub(crate) struct Owed {
    pub(crate) ledger: Ledger<Orders>,
    pub(crate) queries: Queries,
    pub(crate) coordinator: Coordinator,
    pub(crate) env: Env,
}

/// What a future of the task came back with.
enum Done {
    Settled(String),
    Swept(Sweep),
}

/// An order that is being looked after.
struct Active {
    wake: Arc<Notify>,
    /// Something changed since; look again when done.
    changed: bool,
}

/// The task: until `token`.
pub(crate) async fn run(
    owed: Owed,
    mut notes: mpsc::UnboundedReceiver<Note>,
    token: CancellationToken,
) {
    let owed = Arc::new(owed);
    let mut board = Board {
        owed: Arc::clone(&owed),
        running: FuturesUnordered::new(),
        active: BTreeMap::new(),
        waiting: VecDeque::new(),
    };
    board
        .running
        .push(sweep::first(Arc::clone(&owed)).map(Done::Swept).boxed());
    loop {
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            note = notes.recv() => match note {
                Some(note) => board.note(note.order_id, note.state, false),
                None => return,
            },
            Some(done) = board.running.next() => match done {
                Done::Settled(order_id) => board.settled(&order_id),
                Done::Swept(sweep) => {
                    for (order_id, check) in &sweep.found {
                        board.note(order_id.clone(), None, *check);
                    }
                    board.running.push(sweep::next(Arc::clone(&owed), sweep).map(Done::Swept).boxed());
                }
            },
        }
        metrics::gauge!("orders_unsettled")
            .set(board.active.len() as f64 + board.waiting.len() as f64);
    }
}

struct Board {
    owed: Arc<Owed>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    active: BTreeMap<String, Active>,
    waiting: VecDeque<(String, bool)>,
}

impl Board {
    /// Looks after an order, unless somebody does.
    fn note(&mut self, order_id: String, state: Option<Box<OrderState>>, check: bool) {
        if let Some(active) = self.active.get_mut(&order_id) {
            // The sweep brings no news to whoever is at it.
            if !check {
                active.changed = true;
                active.wake.notify_one();
            }
            return;
        }
        if self.active.len() >= AT_ONCE {
            self.waiting.push_back((order_id, check));
            return;
        }
        let wake = Arc::new(Notify::new());
        let task = settle::settle(
            Arc::clone(&self.owed),
            order_id.clone(),
            state,
            check,
            Arc::clone(&wake),
        );
        self.active.insert(
            order_id.clone(),
            Active {
                wake,
                changed: false,
            },
        );
        self.running
            .push(task.map(move |()| Done::Settled(order_id)).boxed());
    }

    fn settled(&mut self, order_id: &str) {
        if let Some(Active { changed: true, .. }) = self.active.remove(order_id) {
            self.note(order_id.to_owned(), None, false);
        }
        while self.active.len() < AT_ONCE {
            let Some((order_id, check)) = self.waiting.pop_front() else {
                return;
            };
            self.note(order_id, None, check);
        }
    }
}
