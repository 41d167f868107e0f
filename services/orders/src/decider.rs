//! The orders on the ledger: which streams and inbox rows a command needs, and how events are stored.

use ledger::{Decision, StreamId, View};
use participant::Outcome;
use participant::barrier::{Key, inbox};
use prost::Message as _;
use sagamesh_api::shop::orders::v1::OrderPlaced;

use crate::domain::{CancelRefusal, Cancelled, OrderEvent, OrderState, StepDecision};

/// What is asked of an order.
#[derive(Clone, Debug)]
pub enum Command {
    /// Place it. `replay` finds the same request again.
    Place {
        /// The order, priced.
        placed: Box<OrderPlaced>,
        /// The client's request.
        replay: RequestKey,
    },
    /// Was this request carried out before?
    LookUp(RequestKey),
    /// Cancel it.
    Cancel {
        /// Which order.
        order_id: String,
        /// Whose; empty for anybody's.
        customer_id: String,
        /// Why.
        reason: String,
        /// Id for the refund saga, if there must be one.
        refund_saga_id: String,
        /// The client's request, if it gave an id.
        replay: Option<RequestKey>,
        /// W3C traceparent of the request; may be empty, as everywhere here.
        trace: String,
    },
    /// The order as it is, read on the write side.
    Read(String),
    /// The coordinator holds the saga.
    SagaStarted {
        /// Which order.
        order_id: String,
        /// Which saga.
        saga_id: String,
        /// It refunds the order.
        refund: bool,
    },
    /// The saga ended undone, or never will start.
    SagaUndone {
        /// Which order.
        order_id: String,
        /// Why, machine-readable.
        reason: String,
        /// Why, for people.
        message: String,
        /// W3C traceparent of what found that out.
        trace: String,
    },
    /// A step of a saga.
    Step {
        /// Which order.
        order_id: String,
        /// The barrier's key.
        key: Key,
        /// What to do.
        act: StepAct,
        /// W3C traceparent of the attempt.
        trace: String,
    },
}

/// The steps that orders handles.
#[derive(Clone, Debug)]
pub enum StepAct {
    /// create-order.
    Lock,
    /// Its compensation.
    Reject {
        /// Why the saga is undone, machine-readable.
        reason: String,
        /// Why, for people.
        message: String,
    },
    /// confirm-order.
    Confirm {
        /// Id for the refund saga, if the customer has cancelled meanwhile.
        refund_saga_id: String,
    },
    /// close-order.
    MarkRefunded,
}

/// A client's request id with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// Key of its inbox row.
    pub key: String,
    /// Hash of its content.
    pub fingerprint: [u8; 32],
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// It was placed at this time (Unix milliseconds).
    Placed(i64),
    /// The same request was carried out before, on this order.
    Replayed(String),
    /// No such request was carried out.
    New,
    /// The state, after the command.
    State(Box<OrderState>),
    /// How the step ended.
    Outcome(Outcome),
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request id was used for something else.
    RequestIdReused,
    /// The cancellation is refused.
    Cancel(CancelRefusal),
}

/// The stream of an order.
#[must_use]
pub fn stream(order_id: &str) -> StreamId {
    StreamId::of("order", order_id)
}

/// Orders as a decider.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders;

impl ledger::Decider for Orders {
    type State = OrderState;
    type Event = OrderEvent;
    type Command = Command;
    type Reply = Reply;
    type Rejection = Refusal;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        match command {
            Command::Place { placed, .. } => vec![stream(&placed.order_id)],
            Command::LookUp(_) => Vec::new(),
            Command::Cancel { order_id, .. }
            | Command::Read(order_id)
            | Command::SagaStarted { order_id, .. }
            | Command::SagaUndone { order_id, .. }
            | Command::Step { order_id, .. } => vec![stream(order_id)],
        }
    }

    fn expects_new(&self, command: &Command) -> bool {
        // The id was made for it.
        matches!(command, Command::Place { .. })
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Place { replay, .. } | Command::LookUp(replay) => vec![replay.key.clone()],
            Command::Cancel { replay, .. } => {
                replay.iter().map(|replay| replay.key.clone()).collect()
            }
            Command::Step { key, .. } => inbox::keys(key).into(),
            Command::Read(_) | Command::SagaStarted { .. } | Command::SagaUndone { .. } => {
                Vec::new()
            }
        }
    }

    fn initial(&self, _stream: &StreamId) -> OrderState {
        OrderState::default()
    }

    fn evolve(&self, state: &mut OrderState, event: &OrderEvent) {
        state.evolve(event);
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        now: i64,
    ) -> Result<Decision<OrderEvent, Reply>, Refusal> {
        match command {
            Command::Place { placed, replay } => {
                if let Some(order_id) = replayed(view, replay)? {
                    return Ok(Decision::new(Reply::Replayed(order_id)));
                }
                let stream = stream(&placed.order_id);
                let events = view.state(&stream).place(placed);
                Ok(Decision::new(Reply::Placed(now))
                    .events(&stream, events)
                    .inbox(replay.key.clone(), replay.row(&placed.order_id)))
            }
            Command::LookUp(replay) => Ok(Decision::new(
                replayed(view, replay)?.map_or(Reply::New, Reply::Replayed),
            )),
            Command::Cancel {
                order_id,
                customer_id,
                reason,
                refund_saga_id,
                replay,
                trace,
            } => {
                let stream = stream(order_id);
                let state = view.state(&stream);
                // Ownership comes first, so that a foreign order cannot be told from a missing one.
                let cancelled = state
                    .cancel(customer_id, reason, refund_saga_id)
                    .map_err(Refusal::Cancel)?;
                let before = replay
                    .as_ref()
                    .map(|replay| replayed(view, replay))
                    .transpose()?
                    .flatten();
                let (events, row) = match (cancelled, before) {
                    (_, Some(_)) => (Vec::new(), None),
                    (Cancelled::Now(events), None) => (events, replay.as_ref()),
                    (Cancelled::Before, None) => (Vec::new(), replay.as_ref()),
                };
                let events = within(events, trace);
                let mut decision = Decision::new(after(state, &events)).events(&stream, events);
                if let Some(replay) = row {
                    decision = decision.inbox(replay.key.clone(), replay.row(order_id));
                }
                Ok(decision)
            }
            Command::Read(order_id) => Ok(Decision::new(after(view.state(&stream(order_id)), &[]))),
            Command::SagaStarted {
                order_id,
                saga_id,
                refund,
            } => {
                let stream = stream(order_id);
                let events = view.state(&stream).saga_started(saga_id, *refund);
                Ok(Decision::new(after(view.state(&stream), &events)).events(&stream, events))
            }
            Command::SagaUndone {
                order_id,
                reason,
                message,
                trace,
            } => {
                let stream = stream(order_id);
                let undone = view.state(&stream).saga_undone(order_id, reason, message);
                let events = within(undone, trace);
                Ok(Decision::new(after(view.state(&stream), &events)).events(&stream, events))
            }
            Command::Step {
                order_id,
                key,
                act,
                trace,
            } => Ok(step(view, order_id, key, (act, trace), now)),
        }
    }

    fn encode(&self, event: &OrderEvent, buffer: &mut Vec<u8>) -> &'static str {
        let name = event.type_name();
        match event {
            OrderEvent::Placed(message) => message.encode_raw(buffer),
            OrderEvent::SagaStarted(message) => message.encode_raw(buffer),
            OrderEvent::Locked(message) => message.encode_raw(buffer),
            OrderEvent::CancelRequested(message) => message.encode_raw(buffer),
            OrderEvent::Confirmed(message) => message.encode_raw(buffer),
            OrderEvent::Rejected(message) => message.encode_raw(buffer),
            OrderEvent::Refunded(message) => message.encode_raw(buffer),
        }
        name
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<OrderEvent, ledger::Error> {
        decode(type_name, data)
    }

    fn forget(&self, state: &OrderState) -> bool {
        state.is_settled()
    }
}

impl OrderEvent {
    /// Full name of its protobuf message.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Placed(_) => "shop.orders.v1.OrderPlaced",
            Self::SagaStarted(_) => "shop.orders.v1.SagaStarted",
            Self::Locked(_) => "shop.orders.v1.OrderLocked",
            Self::CancelRequested(_) => "shop.orders.v1.CancelRequested",
            Self::Confirmed(_) => "shop.orders.v1.OrderConfirmed",
            Self::Rejected(_) => "shop.orders.v1.OrderRejected",
            Self::Refunded(_) => "shop.orders.v1.OrderRefunded",
        }
    }
}

/// A stored event.
///
/// # Errors
/// If it is none of ours.
pub fn decode(type_name: &str, data: &[u8]) -> Result<OrderEvent, ledger::Error> {
    fn read<M: prost::Message + Default>(
        type_name: &str,
        data: &[u8],
        event: fn(M) -> OrderEvent,
    ) -> Result<OrderEvent, ledger::Error> {
        M::decode(data)
            .map(event)
            .map_err(|error| ledger::Error::decode(type_name, error))
    }
    match type_name {
        "shop.orders.v1.OrderPlaced" => read(type_name, data, OrderEvent::Placed),
        "shop.orders.v1.SagaStarted" => read(type_name, data, OrderEvent::SagaStarted),
        "shop.orders.v1.OrderLocked" => read(type_name, data, OrderEvent::Locked),
        "shop.orders.v1.CancelRequested" => read(type_name, data, OrderEvent::CancelRequested),
        "shop.orders.v1.OrderConfirmed" => read(type_name, data, OrderEvent::Confirmed),
        "shop.orders.v1.OrderRejected" => read(type_name, data, OrderEvent::Rejected),
        "shop.orders.v1.OrderRefunded" => read(type_name, data, OrderEvent::Refunded),
        _ => Err(ledger::Error::decode(type_name, "no event of an order")),
    }
}

impl RequestKey {
    fn row(&self, order_id: &str) -> Vec<u8> {
        [&self.fingerprint[..], order_id.as_bytes()].concat()
    }
}

/// The order that the same request was carried out on.
fn replayed(view: &View<'_, Orders>, replay: &RequestKey) -> Result<Option<String>, Refusal> {
    let Some((fingerprint, order_id)) = view
        .inbox(&replay.key)
        .and_then(|row| row.split_at_checked(32))
    else {
        return Ok(None);
    };
    if fingerprint != replay.fingerprint {
        return Err(Refusal::RequestIdReused);
    }
    Ok(Some(String::from_utf8_lossy(order_id).into_owned()))
}

fn after(state: &OrderState, events: &[OrderEvent]) -> Reply {
    let mut state = state.clone();
    events.iter().for_each(|event| state.evolve(event));
    Reply::State(Box::new(state))
}

fn within(events: Vec<OrderEvent>, trace: &str) -> Vec<OrderEvent> {
    events
        .into_iter()
        .map(|event| event.within(trace))
        .collect()
}

/// A step behind the barrier: its outcome is written with its events.
fn step(
    view: &View<'_, Orders>,
    order_id: &str,
    key: &Key,
    (act, trace): (&StepAct, &str),
    now: i64,
) -> Decision<OrderEvent, Reply> {
    match inbox::check(key, now, |row| view.inbox(row)) {
        Ok(inbox::Entry::Proceed) => {}
        Ok(inbox::Entry::Answer(outcome, rows)) => {
            let mut decision = Decision::new(Reply::Outcome(outcome));
            decision.inbox = rows;
            // An undoing that comes before the doing: the order itself still has to end.
            if let StepAct::Reject { reason, message } = act
                && !decision.inbox.is_empty()
            {
                let stream = stream(order_id);
                let undone = view.state(&stream).reject(&key.saga_id, reason, message);
                decision = decision.events(&stream, within(undone.events, trace));
            }
            return decision;
        }
        Err(error) => {
            return Decision::new(Reply::Outcome(Outcome::unknown(
                "BARRIER_UNREADABLE",
                error.to_string(),
            )));
        }
    }
    let stream = stream(order_id);
    let state = view.state(&stream);
    let StepDecision { events, outcome } = match act {
        StepAct::Lock => state.lock(&key.saga_id),
        StepAct::Reject { reason, message } => state.reject(&key.saga_id, reason, message),
        StepAct::Confirm { refund_saga_id } => state.confirm(&key.saga_id, refund_saga_id),
        StepAct::MarkRefunded => state.mark_refunded(&key.saga_id),
    };
    let outcome = match outcome {
        Ok(()) => Outcome::done(),
        Err(refusal) => Outcome::rejected(refusal.reason, refusal.message),
    };
    let rows = inbox::record(key, &outcome);
    let events = within(events, trace);
    let mut decision = Decision::new(Reply::Outcome(outcome)).events(&stream, events);
    decision.inbox = rows;
    decision
}
