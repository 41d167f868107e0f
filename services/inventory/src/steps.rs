//! The saga steps: ReserveStock, ReleaseStock, CommitStock, ReturnStock.
//!
//! Each is one command: the barrier's rows, the counts and the reservation change in one commit, or nothing does.

use std::time::Duration;

use chassis::Env;
use ledger::{ExecuteError, Ledger};
use participant::barrier::Key;
use participant::{Builder, Outcome, StepCommand};
use serde::Deserialize;

use crate::decider::{Command, Inventory, Refusal, Reply};
use crate::domain::{self, Line, Settlement, is_currency, is_reservation_id, is_sku};

/// How long a caller waits that was told "too many at once".
const OVERLOADED_RETRY: Duration = Duration::from_millis(250);

/// What the handlers of the steps share.
#[derive(Clone)]
pub struct Steps {
    ledger: Ledger<Inventory>,
    env: Env,
    reservation_ttl: Duration,
}

impl Steps {
    /// Steps that act on `ledger`; a reservation is asked about after `reservation_ttl`.
    pub fn new(ledger: Ledger<Inventory>, env: Env, reservation_ttl: Duration) -> Self {
        Self {
            ledger,
            env,
            reservation_ttl,
        }
    }

    /// Registers all of them.
    pub fn register(&self, builder: Builder) -> Builder {
        let handler = |how: Settlement| {
            let steps = self.clone();
            move |command: StepCommand| {
                let steps = steps.clone();
                async move { steps.settle(command, how).await }
            }
        };
        let reserving = self.clone();
        builder
            .action("inventory.ReserveStock", move |command: StepCommand| {
                let steps = reserving.clone();
                async move { steps.reserve(command).await }
            })
            .compensation("inventory.ReleaseStock", handler(Settlement::Release))
            .action("inventory.CommitStock", handler(Settlement::Commit))
            .action("inventory.ReturnStock", handler(Settlement::Return))
    }

    /// Holds all lines of the order, or none.
    pub async fn reserve(&self, command: StepCommand) -> Result<Outcome, Outcome> {
        let reservation_id = reservation_id(&command)?;
        let lines = lines(&command)?;
        let currency = currency(&command)?;
        let ttl = i64::try_from(self.reservation_ttl.as_millis()).unwrap_or(i64::MAX);
        let expire_millis = self.env.clock.now_millis().saturating_add(ttl);
        let reserve = domain::Command::Reserve {
            reservation_id,
            lines,
            currency,
            expire_millis,
        };
        Ok(self.execute(command.key(), reserve).await)
    }

    /// Ends the order's reservation.
    pub async fn settle(&self, command: StepCommand, how: Settlement) -> Result<Outcome, Outcome> {
        let reservation_id = reservation_id(&command)?;
        // Only a hint, which saves a second round: what the reservation holds is what counts.
        let skus = lines(&command)
            .unwrap_or_default()
            .into_iter()
            .map(|line| line.sku)
            .filter(|sku| is_sku(sku));
        let settle = domain::Command::Settle {
            reservation_id,
            how,
            skus: skus.collect(),
        };
        Ok(self.execute(command.key(), settle).await)
    }

    async fn execute(&self, key: Key, mut command: domain::Command) -> Outcome {
        // Twice at most: what a reservation holds never changes once it was told.
        for _ in 0..3 {
            let step = Command::Step {
                key: key.clone(),
                command: command.clone(),
            };
            match self.ledger.execute(step).await.map(|done| done.reply) {
                Ok(Reply::Outcome(outcome)) => return outcome,
                Ok(Reply::Names(names)) => {
                    if let domain::Command::Settle { skus, .. } = &mut command {
                        *skus = names;
                    }
                }
                Ok(Reply::Item(_) | Reply::Settled { .. }) => break,
                Err(error) => return failed(&error),
            }
        }
        Outcome::transient(
            "CONTENDED",
            "the reservation changed while it was read; try again",
        )
    }
}

/// What a step answers when the ledger could not decide it.
fn failed(error: &ExecuteError<Refusal>) -> Outcome {
    match error {
        ExecuteError::Rejected(refusal) => {
            Outcome::transient("STORAGE_DAMAGED", refusal.to_string())
        }
        ExecuteError::Overloaded => {
            Outcome::transient_after("OVERLOADED", error.to_string(), OVERLOADED_RETRY)
        }
        ExecuteError::Unavailable => Outcome::unknown("SHUTTING_DOWN", error.to_string()),
        ExecuteError::Storage(_) => {
            tracing::error!(%error, "a step could not be stored");
            Outcome::transient(
                "STORAGE_FAILED",
                "inventory could not store the step; try again",
            )
        }
    }
}

/// The order's id: the input `order_id`, or the saga's own id, which is the same for place-order.
fn reservation_id(command: &StepCommand) -> Result<String, Outcome> {
    let id = command.text("order_id").unwrap_or(&command.saga_id);
    if is_reservation_id(id) {
        Ok(id.to_owned())
    } else {
        Err(Outcome::rejected(
            "INPUT_INVALID",
            "input field `order_id` is not 1 to 128 characters of [A-Za-z0-9._:-]",
        ))
    }
}

#[derive(Deserialize)]
struct LineInput {
    sku: String,
    quantity: i64,
}

#[derive(Deserialize)]
struct TotalInput {
    currency: String,
}

fn lines(command: &StepCommand) -> Result<Vec<Line>, Outcome> {
    let inputs: Vec<LineInput> = command.json("lines")?;
    inputs
        .into_iter()
        .enumerate()
        .map(|(index, LineInput { sku, quantity })| {
            let quantity = u32::try_from(quantity).map_err(|_| {
                let most = domain::MAX_LINE_QUANTITY;
                let says = format!("lines[{index}].quantity is {quantity}, not 1 to {most}");
                Outcome::rejected("INVALID_LINES", says)
            })?;
            // A name that is no SKU names no stream either.
            if !is_sku(&sku) {
                let says = format!("lines[{index}].sku is not 1 to 64 characters of [A-Za-z0-9_-]");
                return Err(Outcome::rejected("INVALID_LINES", says));
            }
            Ok(Line { sku, quantity })
        })
        .collect()
}

/// The order's currency, if the step was given the total.
fn currency(command: &StepCommand) -> Result<Option<String>, Outcome> {
    if !command.input.contains_key("total") {
        return Ok(None);
    }
    let total: TotalInput = command.json("total")?;
    if is_currency(&total.currency) {
        Ok(Some(total.currency))
    } else {
        Err(Outcome::rejected(
            "INPUT_INVALID",
            "input field `total` has no currency of three upper-case letters",
        ))
    }
}
