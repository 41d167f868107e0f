//! The domain on the ledger: which streams and inbox rows a command needs, and what is recorded with its events.

use ledger::inbox::{self, Seen};
use ledger::{Decider, Decision, StreamId, View};
use participant::Outcome;
use participant::barrier::Key;
use participant::ledger_barrier::{self, Entry};
use prost::Message as _;
use sagamesh_api::saga::v1::Direction;
use sagamesh_api::shop::inventory::v1 as api;
use sagamesh_api::shop::v1::Money;

use crate::domain::{self, Change, Decided, Event, Item, Reservation, Shelf, Target};

/// What a snapshot holds, in the place of a SKU. It changes with every change of what a snapshot holds: one of another program's is
/// not used, and the item is read from its start.
const SNAPSHOT: &str = "";

/// The decider of inventory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inventory;

/// The state of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Of `item/<sku>`.
    Item(Item),
    /// Of `reservation/<id>`.
    Reservation(Reservation),
}

/// What is asked, and what makes it safe to repeat.
#[derive(Clone, Debug)]
pub enum Command {
    /// Restock, idempotent by its request id.
    Restock {
        /// The request as it came.
        request: api::RestockRequest,
        /// The same, checked.
        restock: domain::Restock,
    },
    /// Restock an item that does not exist yet, or do nothing.
    Seed(domain::Restock),
    /// A step of a saga, behind the barrier.
    Step {
        /// The barrier's key.
        key: Key,
        /// What the step does.
        command: domain::Command,
    },
    /// Something that inventory does by itself; safe to repeat as it is.
    Own(domain::Command),
}

/// What a caller gets back.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The item after a restock.
    Item(api::Item),
    /// The outcome of a step.
    Outcome(Outcome),
    /// Ask again and name these items.
    Names(Vec<String>),
    /// It is so now; whether that changed anything.
    Settled {
        /// Something changed.
        changed: bool,
    },
}

/// Why a command was not decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A business "no".
    #[error(transparent)]
    Domain(#[from] domain::Rejection),
    /// The request id was used for something else.
    #[error("request_id `{0}` was used for another request: take a new one")]
    RequestIdReused(String),
    /// A stored row cannot be read.
    #[error("{0}")]
    Damaged(String),
}

impl Decider for Inventory {
    type State = State;
    type Event = Event;
    type Command = Command;
    type Reply = Reply;
    type Rejection = Refusal;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        let restock = |restock: &domain::Restock| vec![item_stream(&restock.sku)];
        match command {
            Command::Restock {
                restock: wanted, ..
            }
            | Command::Seed(wanted) => restock(wanted),
            Command::Step { command, .. } | Command::Own(command) => {
                command.targets().iter().map(stream).collect()
            }
        }
    }

    fn initial(&self, stream: &StreamId) -> State {
        match stream.kind() {
            "reservation" => State::Reservation(Reservation::default()),
            _ => State::Item(Item::default()),
        }
    }

    fn evolve(&self, state: &mut State, event: &Event) {
        match state {
            State::Item(item) => item.evolve(event),
            State::Reservation(reservation) => reservation.evolve(event),
        }
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Restock { request, .. } => vec![request_key(&request.request_id)],
            Command::Step { key, .. } => ledger_barrier::keys(key),
            Command::Seed(_) | Command::Own(_) => Vec::new(),
        }
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now_millis: i64,
    ) -> Result<Decision<Event, Reply>, Refusal> {
        match command {
            Command::Restock { request, restock } => {
                decide_restock(view, request, restock, now_millis)
            }
            Command::Seed(restock) => {
                if States(view).item(&restock.sku).exists() {
                    return Ok(Decision::new(Reply::Settled { changed: false }));
                }
                decide_own(view, &domain::Command::Restock(restock.clone()))
            }
            Command::Step { key, command } => decide_step(view, key, command, now_millis),
            Command::Own(command) => decide_own(view, command),
        }
    }

    fn encode(&self, event: &Event, buffer: &mut Vec<u8>) -> &'static str {
        event.encode(buffer)
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<Event, ledger::Error> {
        Event::decode(type_name, data).map_err(|error| ledger::Error::decode(type_name, error))
    }

    fn forget(&self, state: &State) -> bool {
        matches!(state, State::Reservation(reservation) if reservation.ended())
    }

    fn snapshot(&self, state: &State) -> Option<Vec<u8>> {
        match state {
            State::Item(item) => Some(api_item(SNAPSHOT, item, 0, 0).encode_to_vec()),
            State::Reservation(_) => None,
        }
    }

    fn restore(&self, stream: &StreamId, snapshot: &[u8]) -> Option<State> {
        if stream.kind() != "item" {
            return None;
        }
        let item = api::Item::decode(snapshot).ok()?;
        if item.sku != SNAPSHOT {
            return None;
        }
        let price = item.unit_price.unwrap_or_default();
        Some(State::Item(Item {
            name: item.name,
            currency: price.currency,
            price_minor: price.minor_units,
            available: item.available,
            reserved: item.reserved,
            committed: item.committed,
        }))
    }
}

fn decide_restock(
    view: &View<'_, Inventory>,
    request: &api::RestockRequest,
    restock: &domain::Restock,
    now_millis: i64,
) -> Result<Decision<Event, Reply>, Refusal> {
    let key = request_key(&request.request_id);
    let fingerprint = inbox::fingerprint(request);
    match inbox::check(view.inbox(&key), &fingerprint) {
        Seen::Never => {}
        Seen::Otherwise => return Err(Refusal::RequestIdReused(request.request_id.clone())),
        Seen::Before(reply) => {
            let item = api::Item::decode(reply).map_err(|error| {
                Refusal::Damaged(format!("the record of a restock cannot be read: {error}"))
            })?;
            return Ok(Decision::new(Reply::Item(item)));
        }
    }
    let command = domain::Command::Restock(restock.clone());
    let changes = match domain::decide(&States(view), &command)? {
        Decided::Changes(changes) => changes,
        Decided::Names(skus) => return Ok(Decision::new(Reply::Names(skus))),
    };
    let mut item = States(view).item(&restock.sku).clone();
    changes.iter().for_each(|change| item.evolve(&change.event));
    let version = view.version(&item_stream(&restock.sku)) + changes.len() as u64;
    let item = api_item(&restock.sku, &item, version, now_millis);
    let row = inbox::record(&fingerprint, &item.encode_to_vec());
    Ok(with(changes, Reply::Item(item)).inbox(key, row))
}

fn decide_step(
    view: &View<'_, Inventory>,
    key: &Key,
    command: &domain::Command,
    now_millis: i64,
) -> Result<Decision<Event, Reply>, Refusal> {
    let entry = ledger_barrier::check(view, key, now_millis)
        .map_err(|error| Refusal::Damaged(error.to_string()))?;
    let no_op = match entry {
        Entry::Proceed => None,
        // Nothing is on record of the action, which is so too when its row was too old to be kept: the reservation itself knows. If
        // there is none, the domain finds nothing to undo.
        Entry::Answer(_, rows) if key.direction == Direction::Compensation && rows.len() == 2 => {
            Some(rows)
        }
        Entry::Answer(outcome, rows) => {
            let mut decision = Decision::new(Reply::Outcome(outcome));
            decision.inbox = rows;
            return Ok(decision);
        }
    };
    let (changes, outcome) = match domain::decide(&States(view), command) {
        Ok(Decided::Names(skus)) => return Ok(Decision::new(Reply::Names(skus))),
        Ok(Decided::Changes(changes)) => (changes, Outcome::done()),
        Err(rejection) => (
            Vec::new(),
            Outcome::rejected(rejection.reason(), rejection.to_string()),
        ),
    };
    let rows = match (no_op, &outcome) {
        (Some(rows), Outcome::Success(_)) => rows,
        _ => ledger_barrier::record(key, &outcome),
    };
    let mut decision = with(changes, Reply::Outcome(outcome));
    decision.inbox = rows;
    Ok(decision)
}

fn decide_own(
    view: &View<'_, Inventory>,
    command: &domain::Command,
) -> Result<Decision<Event, Reply>, Refusal> {
    match domain::decide(&States(view), command)? {
        Decided::Names(skus) => Ok(Decision::new(Reply::Names(skus))),
        Decided::Changes(changes) => {
            let changed = !changes.is_empty();
            Ok(with(changes, Reply::Settled { changed }))
        }
    }
}

fn with<R>(changes: Vec<Change>, reply: R) -> Decision<Event, R> {
    changes
        .into_iter()
        .fold(Decision::new(reply), |decision, change| {
            decision.event(stream(&change.target), change.event)
        })
}

/// The states of a view, as the domain sees them.
struct States<'a, 'v>(&'a View<'v, Inventory>);

static NO_ITEM: Item = Item {
    name: String::new(),
    currency: String::new(),
    price_minor: 0,
    available: 0,
    reserved: 0,
    committed: 0,
};
static NO_RESERVATION: Reservation = Reservation {
    status: domain::ReservationStatus::Absent,
    lines: Vec::new(),
};

impl Shelf for States<'_, '_> {
    fn item(&self, sku: &str) -> &Item {
        match self.0.state(&item_stream(sku)) {
            State::Item(item) => item,
            State::Reservation(_) => &NO_ITEM,
        }
    }

    fn reservation(&self, id: &str) -> &Reservation {
        match self.0.state(&StreamId::of("reservation", id)) {
            State::Reservation(reservation) => reservation,
            State::Item(_) => &NO_RESERVATION,
        }
    }
}

fn stream(target: &Target) -> StreamId {
    StreamId::from(target.stream())
}

fn item_stream(sku: &str) -> StreamId {
    StreamId::of("item", sku)
}

fn request_key(request_id: &str) -> String {
    inbox::key("Restock", request_id)
}

/// An item as people see it.
pub(crate) fn api_item(sku: &str, item: &Item, version: u64, update_millis: i64) -> api::Item {
    api::Item {
        sku: sku.to_owned(),
        name: item.name.clone(),
        available: item.available,
        reserved: item.reserved,
        committed: item.committed,
        unit_price: Some(Money {
            minor_units: item.price_minor,
            currency: item.currency.clone(),
        }),
        etag: version.to_string(),
        update_time: Some(chassis::timestamp::from_millis(update_millis)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_of_another_version_is_not_used() {
        let item = Item {
            name: "Tea".to_owned(),
            available: 7,
            ..Item::default()
        };
        let stream = StreamId::of("item", "tea");
        let own = Inventory.snapshot(&State::Item(item.clone())).expect("one");
        let restored = Inventory.restore(&stream, &own);
        assert_eq!(restored, Some(State::Item(item.clone())));
        let of_the_next = api_item("2", &item, 0, 0).encode_to_vec();
        assert_eq!(Inventory.restore(&stream, &of_the_next), None);
    }
}
