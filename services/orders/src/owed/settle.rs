//! One order, until it owes nothing.

use std::sync::Arc;
use std::time::Duration;

use chassis::Backoff;
use sagamesh_api::saga::v1::{SagaState, StartSagaRequest};
use sagamesh_api::shop::orders::v1::{Order, OrderStatus};
use tokio::sync::Notify;
use tonic::Status;

use super::Owed;
use crate::coordinator::{Cancel, Started, undone};
use crate::decider::{Command, Reply};
use crate::domain::{Effect, OrderState, PLACE_ORDER, REFUND_ORDER, outstanding, saga_input};

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(5);

/// How often an order that waits for others (its saga's end, an operator) is looked at before it is left to the sweep: its place is for orders
/// that can go on.
const LOOKS: u32 = 16;

/// What to do after a try.
enum Next {
    /// Look at the order again now.
    Again,
    /// Look again later.
    Later,
}

/// Does what the order owes until it owes nothing. With `check`, asks after its saga once when it owes nothing and is not settled.
pub(super) async fn settle(
    owed: Arc<Owed>,
    order_id: String,
    known: Option<Box<OrderState>>,
    mut check: bool,
    wake: Arc<Notify>,
) {
    let mut known = known;
    let mut backoff = Backoff::new(FIRST, LONGEST);
    let mut looks = 0;
    loop {
        let Some(state) = owed.state(&order_id, known.take()).await else {
            tokio::time::sleep(backoff.next(&owed.env)).await;
            continue;
        };
        let tried = match outstanding(&state).first() {
            Some(effect) => owed.try_effect(&state, effect).await,
            None if check => {
                check = false;
                within(&state, owed.follow(&state)).await
            }
            None => return,
        };
        match tried {
            Ok(Next::Again) => backoff.reset(),
            Ok(Next::Later) if looks >= LOOKS => return,
            Ok(Next::Later) => {
                looks += 1;
                wait(&mut backoff, &owed, &wake).await;
            }
            Err(status) => {
                metrics::counter!("orders_saga_calls_failed_total").increment(1);
                tracing::warn!(order_id, code = ?status.code(), message = status.message(), "the coordinator did not answer, trying again");
                wait(&mut backoff, &owed, &wake).await;
            }
        }
    }
}

/// What an order owes is part of the trace that asked for it, after a crash as well.
async fn within<F: Future>(state: &OrderState, work: F) -> F::Output {
    let trace = Some(state.traceparent.as_str()).filter(|trace| !trace.is_empty());
    chassis::trace::scope(trace, work).await
}

fn trace() -> String {
    chassis::trace::current().unwrap_or_default()
}

async fn wait(backoff: &mut Backoff, owed: &Owed, wake: &Notify) {
    tokio::select! {
        biased;
        () = tokio::time::sleep(backoff.next(&owed.env)) => {}
        () = wake.notified() => {}
    }
}

impl Owed {
    /// The order's state: as it is known, or from the write side.
    async fn state(
        &self,
        order_id: &str,
        known: Option<Box<OrderState>>,
    ) -> Option<Box<OrderState>> {
        if known.is_some() {
            return known;
        }
        self.tell(Command::Read(order_id.to_owned())).await
    }

    /// Tells an order something; its state after that. `None` when the ledger could not take it: try again.
    async fn tell(&self, command: Command) -> Option<Box<OrderState>> {
        match self.ledger.execute(command).await {
            Ok(done) => match done.reply {
                Reply::State(state) => Some(state),
                Reply::Done
                | Reply::Placed(_)
                | Reply::Replayed(_)
                | Reply::New
                | Reply::Outcome(_) => None,
            },
            Err(error) => {
                tracing::warn!(%error, "the order's log could not be written, trying again");
                None
            }
        }
    }

    async fn try_effect(&self, state: &OrderState, effect: &Effect) -> Result<Next, Status> {
        let Some(order) = state.order.as_deref() else {
            return Ok(Next::Later);
        };
        let work = async {
            match effect {
                Effect::StartSaga(_) => self.start(order, false).await,
                Effect::StartRefund(_) => self.start(order, true).await,
                Effect::CancelSaga(saga_id) => self.cancel(order, saga_id).await,
            }
        };
        within(state, work).await
    }

    /// Starts the order's saga, or the one that refunds it.
    async fn start(&self, order: &Order, refund: bool) -> Result<Next, Status> {
        let (definition, saga_id, reason) = if refund {
            (
                REFUND_ORDER,
                &order.refund_saga_id,
                Some("the customer cancelled the order"),
            )
        } else {
            (PLACE_ORDER, &order.saga_id, None)
        };
        let request = StartSagaRequest {
            saga_id: saga_id.clone(),
            definition: definition.to_owned(),
            input: saga_input(order, reason),
            search_attributes: [("order_id".to_owned(), order.order_id.clone())].into(),
            ..StartSagaRequest::default()
        };
        let command = match self.coordinator.start(request).await? {
            Started::Held => {
                metrics::counter!("orders_sagas_started_total", "definition" => definition)
                    .increment(1);
                Command::SagaStarted {
                    order_id: order.order_id.clone(),
                    saga_id: saga_id.clone(),
                    refund,
                }
            }
            Started::Refused(message) if refund => {
                tracing::error!(
                    order_id = order.order_id,
                    message,
                    "the coordinator refuses the refund saga: the order needs an operator"
                );
                return Ok(Next::Later);
            }
            Started::Refused(message) => {
                tracing::error!(
                    order_id = order.order_id,
                    message,
                    "the coordinator refuses the order's saga"
                );
                let message = "the order cannot be carried out".to_owned();
                Command::SagaUndone {
                    order_id: order.order_id.clone(),
                    reason: "SAGA_REFUSED".to_owned(),
                    message,
                    trace: trace(),
                }
            }
        };
        Ok(self.told(command).await)
    }

    /// Asks for the saga to be undone, until the order has ended: what ends it may be a step, or the saga's end that no step tells.
    async fn cancel(&self, order: &Order, saga_id: &str) -> Result<Next, Status> {
        let saga = match self
            .coordinator
            .cancel(saga_id, "the customer cancelled the order")
            .await?
        {
            Cancel::Unknown => return self.start(order, false).await,
            // The order will be confirmed, and refunded in the same commit.
            Cancel::TooLate => return Ok(Next::Later),
            Cancel::Ended => self.coordinator.get(saga_id).await?,
            Cancel::Undoing(saga) => Some(*saga),
        };
        match saga.as_ref().and_then(undone) {
            Some((reason, message)) => Ok(self
                .told(Command::SagaUndone {
                    order_id: order.order_id.clone(),
                    reason,
                    message,
                    trace: trace(),
                })
                .await),
            None => Ok(Next::Later),
        }
    }

    /// Asks what became of the saga of an order that has been open for long.
    async fn follow(&self, state: &OrderState) -> Result<Next, Status> {
        let Some(order) = state.order.as_deref() else {
            return Ok(Next::Again);
        };
        let refund = match order.status() {
            OrderStatus::Pending => false,
            OrderStatus::Refunding => true,
            OrderStatus::Unspecified
            | OrderStatus::Confirmed
            | OrderStatus::Rejected
            | OrderStatus::Refunded => {
                return Ok(Next::Again);
            }
        };
        let saga_id = if refund {
            &order.refund_saga_id
        } else {
            &order.saga_id
        };
        let Some(saga) = self.coordinator.get(saga_id).await? else {
            tracing::warn!(
                order_id = order.order_id,
                saga_id,
                "the coordinator does not know this saga any more: it is started again"
            );
            return self.start(order, refund).await;
        };
        match undone(&saga) {
            Some((reason, message)) if !refund => Ok(self
                .told(Command::SagaUndone {
                    order_id: order.order_id.clone(),
                    reason,
                    message,
                    trace: trace(),
                })
                .await),
            Some((reason, _)) => {
                metrics::counter!("orders_refunds_failed_total").increment(1);
                tracing::error!(
                    order_id = order.order_id,
                    saga_id,
                    reason,
                    "the refund was refused: the order needs an operator"
                );
                Ok(Next::Again)
            }
            None if saga.state() == SagaState::Completed => {
                tracing::error!(
                    order_id = order.order_id,
                    saga_id,
                    "the saga is done but the order is not: was one of its steps skipped?"
                );
                Ok(Next::Again)
            }
            None => Ok(Next::Again),
        }
    }

    async fn told(&self, command: Command) -> Next {
        match self.tell(command).await {
            Some(_) => Next::Again,
            None => Next::Later,
        }
    }
}
