//! The scenarios, in the order in which they are played.

use sagamesh_api::saga::v1::SagaState;
use sagamesh_api::shop::orders::v1::OrderStatus;

use super::stage::Stage;
use super::{mesh, replicas};
use crate::failure::Failure;
use crate::output;

/// One scenario.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) story: &'static str,
    plot: Plot,
}

/// What happens in it.
#[derive(Clone, Copy)]
enum Plot {
    /// One order of a keyboard and two mice.
    Order {
        payment_method: &'static str,
        ends: (OrderStatus, SagaState),
    },
    /// An order of more than there is.
    TooMuch,
    /// Two orders for the last items.
    LastItems,
    /// Cancelled while it is pending.
    Cancel,
    /// Cancelled after it was confirmed.
    Refund,
    /// The coordinator is killed in the middle.
    Kill,
    /// A call that the mesh's policy forbids.
    Forbidden,
    /// The same, while the policy is edited.
    Edited,
    /// Orders while certificates are renewed.
    Renewed,
    /// The mesh's control plane is killed.
    Headless,
    /// One of two gateways is killed under load.
    Gateway,
    /// One of two replicas of payments is killed under load.
    Payments,
}

pub(super) const CONFIRMED: (OrderStatus, SagaState) =
    (OrderStatus::Confirmed, SagaState::Completed);
const UNDONE: (OrderStatus, SagaState) = (OrderStatus::Rejected, SagaState::Compensated);

/// All of them.
pub(super) fn all() -> Vec<Scenario> {
    let order = |payment_method, ends| Plot::Order {
        payment_method,
        ends,
    };
    [
        ("a good order", "Stock is reserved and the card authorised at the same time; then the money is taken, and the order confirmed.", order("pm_ok", CONFIRMED)),
        ("a declined card", "The bank says no: what was reserved meanwhile goes back.", order("pm_declined", UNDONE)),
        ("too little stock", "Four monitors of three: refused before anything begins.", Plot::TooMuch),
        ("the last items", "Two customers order two monitors each, of three. Both pass the first look; the one who comes second is undone.", Plot::LastItems),
        ("pm_flaky", "The payment processor is away twice, then it works: the step is tried again.", order("pm_flaky", CONFIRMED)),
        ("pm_timeout_authorize", "The processor authorises and never answers: after 10 s the outcome is unknown, and the step finds out.", order("pm_timeout_authorize", CONFIRMED)),
        ("pm_timeout_capture", "The same at the point of no return: it is neither taken twice nor given up.", order("pm_timeout_capture", CONFIRMED)),
        ("an order cancelled while pending", "The customer changes their mind while the bank thinks.", Plot::Cancel),
        ("an order refunded", "The customer changes their mind later: a second saga pays back and takes the goods back.", Plot::Refund),
        ("a coordinator killed with -9", "It is killed while a payment is under way, comes back, and goes on.", Plot::Kill),
        ("a call that policy forbids", "notifications asks payments for a payment. Nothing in mesh/policy lets it.", Plot::Forbidden),
        ("a policy edited while running", "A file lets it, and is taken away again: no restart, no redeploy.", Plot::Edited),
        ("certificates renewed under load", "Certificates of 20 s are renewed while orders go through.", Plot::Renewed),
        ("the control plane killed with -9", "Sidecars go on with what they know; it comes back and nobody notices.", Plot::Headless),
        ("one of two gateways killed with -9", "Customers order through the one public port. Whoever was connected to it connects again, and repeats the request under its key.", Plot::Gateway),
        ("one of two payments killed with -9", "Two of them share one PostgreSQL database. The mesh leaves out the one that is gone; the other one goes on.", Plot::Payments),
    ]
    .map(|(name, story, plot)| Scenario { name, story, plot })
    .into()
}

impl Scenario {
    /// Whether it is about the mesh, and so needs one.
    pub(super) fn needs_mesh(&self) -> bool {
        matches!(
            self.plot,
            Plot::Forbidden | Plot::Edited | Plot::Renewed | Plot::Headless | Plot::Payments
        )
    }

    /// Whether its services have replicas, and so need a database that they can share.
    pub(super) fn needs_postgres(&self) -> bool {
        matches!(self.plot, Plot::Payments)
    }

    /// Plays it; returns what is otherwise than it should.
    pub(super) async fn play(&self, stage: &mut Stage) -> anyhow::Result<Vec<String>> {
        match self.plot {
            Plot::Order {
                payment_method,
                ends,
            } => {
                let order = stage
                    .place(&[("keyboard", 1), ("mouse", 2)], payment_method)
                    .await?;
                stage.settle(&order, ends).await
            }
            Plot::TooMuch => too_much(stage).await,
            Plot::LastItems => last_items(stage).await,
            Plot::Cancel => cancel(stage).await,
            Plot::Refund => refund(stage).await,
            Plot::Kill => kill(stage).await,
            Plot::Forbidden => mesh::forbidden(stage).await,
            Plot::Edited => mesh::edited(stage).await,
            Plot::Renewed => mesh::renewed(stage).await,
            Plot::Headless => mesh::headless(stage).await,
            Plot::Gateway => replicas::gateway(stage).await,
            Plot::Payments => replicas::payments(stage).await,
        }
    }
}

async fn too_much(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    match stage.place(&[("monitor", 4)], "pm_ok").await {
        Ok(order) => Ok(vec![format!(
            "order {} of more than there is was accepted",
            order.order_id
        )]),
        Err(error) if refused_for(&error, "INSUFFICIENT_STOCK") => {
            output::line(&format!("   refused: {error}"));
            Ok(vec![])
        }
        Err(error) => Err(error),
    }
}

fn refused_for(error: &anyhow::Error, reason: &str) -> bool {
    error
        .downcast_ref::<Failure>()
        .is_some_and(|failure| failure.message.contains(reason))
}

async fn last_items(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    // While inventory gets no commands, both orders pass the first look.
    stage.pause("inventory", true).await?;
    let first = stage.place(&[("monitor", 2)], "pm_ok").await;
    let second = stage.place(&[("monitor", 2)], "pm_ok").await;
    let orders = match (first, second) {
        (Ok(first), Ok(second)) => {
            stage
                .until_dispatched(&first.saga_id, "reserve-stock")
                .await?;
            Ok((first, second))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    stage.pause("inventory", false).await?;
    let (first, second) = orders?;
    let first_won =
        stage.shop.until_ended(&first.order_id).await?.status() == OrderStatus::Confirmed;
    let (winner, loser) = if first_won {
        (first, second)
    } else {
        (second, first)
    };
    let mut complaints = stage.settle(&winner, CONFIRMED).await?;
    complaints.extend(stage.settle(&loser, UNDONE).await?);
    Ok(complaints)
}

async fn cancel(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let order = stage.place(&[("keyboard", 1)], "pm_slow").await?;
    stage
        .until_dispatched(&order.saga_id, "authorize-payment")
        .await?;
    stage
        .shop
        .cancel(&order.order_id, "changed my mind".into())
        .await?;
    stage.settle(&order, UNDONE).await
}

async fn refund(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let order = stage.place(&[("keyboard", 1)], "pm_ok").await?;
    let confirmed = stage.shop.until_ended(&order.order_id).await?;
    if confirmed.status() != OrderStatus::Confirmed {
        return stage.settle(&order, CONFIRMED).await;
    }
    let cancelled = stage
        .shop
        .cancel(&order.order_id, "does not fit".into())
        .await?;
    let ends = (OrderStatus::Refunded, SagaState::Completed);
    stage
        .settle_saga(&order.order_id, &cancelled.refund_saga_id, ends)
        .await
}

async fn kill(stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let order = stage.place(&[("mouse", 1)], "pm_slow").await?;
    stage
        .until_dispatched(&order.saga_id, "authorize-payment")
        .await?;
    stage.kill("coordinator")?;
    stage.settle(&order, CONFIRMED).await
}
