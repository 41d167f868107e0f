//! The steps that orders does in sagas. Each is decided and recorded together with its barrier row.

use chassis::Env;
use ledger::{ExecuteError, Ledger};
use participant::{Outcome, Participant, Running, StepCommand};

use crate::decider::{Command, Orders, Reply, StepAct};
use crate::ids::Ids;

/// Commands that run at the same time. They wait for the log's group commit, so many cost little.
const CONCURRENCY: u32 = 256;

/// Connects orders to the coordinator as the participant `orders`.
///
/// # Errors
/// If the coordinator's address is none.
pub(crate) fn participate(
    ledger: &Ledger<Orders>,
    coordinator: &str,
    ids: &Ids,
    env: &Env,
    tasks: &chassis::Tasks,
) -> Result<Running, participant::BuildError> {
    let step = |act: fn(&StepCommand, &Ids) -> StepAct| {
        let (ledger, ids) = (ledger.clone(), ids.clone());
        move |command: StepCommand| {
            let (ledger, act) = (ledger.clone(), act(&command, &ids));
            async move { run(&ledger, &command, act).await }
        }
    };
    Participant::builder("orders", coordinator, env)
        .concurrency(CONCURRENCY)
        .action("orders.LockOrder", step(|_, _| StepAct::Lock))
        .compensation("orders.RejectOrder", step(|command, _| reject(command)))
        .action(
            "orders.ConfirmOrder",
            step(|_, ids| StepAct::Confirm {
                refund_saga_id: ids.next(),
            }),
        )
        .action("orders.MarkRefunded", step(|_, _| StepAct::MarkRefunded))
        .run(tasks)
}

/// Why the saga is undone comes with the compensation.
fn reject(command: &StepCommand) -> StepAct {
    let text = |field| command.text(field).unwrap_or_default().to_owned();
    StepAct::Reject {
        reason: text("saga.abort_reason"),
        message: text("saga.abort_message"),
    }
}

async fn run(ledger: &Ledger<Orders>, command: &StepCommand, act: StepAct) -> Outcome {
    // A compensation must be able to work from the saga's id alone, which is the order's.
    let order_id = command
        .text("order_id")
        .unwrap_or(&command.saga_id)
        .to_owned();
    match ledger
        .execute(Command::Step {
            order_id,
            key: command.key(),
            act,
            trace: chassis::trace::current().unwrap_or_default(),
        })
        .await
    {
        Ok(done) => match done.reply {
            Reply::Outcome(outcome) => outcome,
            Reply::Done | Reply::Placed(_) | Reply::Replayed(_) | Reply::New | Reply::State(_) => {
                Outcome::done()
            }
        },
        Err(ExecuteError::Rejected(_)) => {
            Outcome::unknown("UNEXPECTED", "a step was refused outside of its rules")
        }
        Err(ExecuteError::Overloaded) => {
            Outcome::transient("OVERLOADED", "too many commands are waiting at orders")
        }
        Err(ExecuteError::Unavailable) => {
            Outcome::unknown("SHUTTING_DOWN", "orders is shutting down")
        }
        Err(ExecuteError::Storage(error)) => {
            tracing::error!(%error, "the database of orders failed");
            Outcome::transient("STORAGE_UNAVAILABLE", "orders cannot write to its database")
        }
    }
}
