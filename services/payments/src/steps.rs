//! The saga steps: AuthorizePayment, VoidAuthorization, CapturePayment, RefundPayment.
//!
//! Each goes round until it has an outcome: decide and commit, then ask or call the processor, then decide on its answer. It may
//! stop anywhere; the next attempt asks the processor by the same key.

use std::time::Duration;

use ledger::{ExecuteError, Ledger};
use participant::barrier::Key;
use participant::{Builder, Outcome, StepCommand};
use sagamesh_api::shop::v1::Money;
use serde::Deserialize;
use tokio::time::Instant;

use crate::decider::{Command, Damaged, Payments, Reply};
use crate::domain::{
    self, Asked, Details, MAX_AMOUNT_MINOR, MAX_ID_CHARS, Operation, is_currency, is_payment_id,
};
use crate::processor::{CallError, Guarded, Request};

/// More rounds than any path through the states needs.
const MOST_ROUNDS: usize = 8;
/// How long before the end of its attempt a step gives the processor up, so that it can still say so: at most this, and at most a
/// tenth of the attempt.
const MARGIN: Duration = Duration::from_millis(500);

/// What the handlers of the steps share.
#[derive(Clone, Debug)]
pub struct Steps {
    ledger: Ledger<Payments>,
    processor: Guarded,
}

impl Steps {
    /// Steps that act on `ledger` and call `processor`.
    pub fn new(ledger: Ledger<Payments>, processor: Guarded) -> Self {
        Self { ledger, processor }
    }

    /// Registers all of them.
    pub fn register(&self, builder: Builder) -> Builder {
        let handler = |first: fn(&StepCommand) -> Result<domain::Command, Outcome>| {
            let steps = self.clone();
            move |command: StepCommand| {
                let steps = steps.clone();
                async move { steps.run(command, first).await }
            }
        };
        builder
            .action("payments.AuthorizePayment", handler(authorize))
            .compensation(
                "payments.VoidAuthorization",
                handler(|_| Ok(domain::Command::Undo { asked: None })),
            )
            .action(
                "payments.CapturePayment",
                handler(|_| Ok(domain::Command::Capture)),
            )
            .action(
                "payments.RefundPayment",
                handler(|_| Ok(domain::Command::Refund)),
            )
    }

    async fn run(
        &self,
        command: StepCommand,
        first: fn(&StepCommand) -> Result<domain::Command, Outcome>,
    ) -> Result<Outcome, Outcome> {
        let payment_id = payment_id(&command)?;
        let first = first(&command)?;
        let attempt = Attempt::of(&command, payment_id);
        Ok(self.drive(&attempt, first).await)
    }

    /// Holds the order's money.
    ///
    /// # Errors
    /// A rejection of input that makes no sense.
    pub async fn authorize(&self, command: StepCommand) -> Result<Outcome, Outcome> {
        self.run(command, authorize).await
    }

    /// Undoes whatever there is of the order's payment.
    ///
    /// # Errors
    /// A rejection of input that makes no sense.
    pub async fn void(&self, command: StepCommand) -> Result<Outcome, Outcome> {
        self.run(command, |_| Ok(domain::Command::Undo { asked: None }))
            .await
    }

    /// Takes the order's money.
    ///
    /// # Errors
    /// A rejection of input that makes no sense.
    pub async fn capture(&self, command: StepCommand) -> Result<Outcome, Outcome> {
        self.run(command, |_| Ok(domain::Command::Capture)).await
    }

    /// Gives the order's money back.
    ///
    /// # Errors
    /// A rejection of input that makes no sense.
    pub async fn refund(&self, command: StepCommand) -> Result<Outcome, Outcome> {
        self.run(command, |_| Ok(domain::Command::Refund)).await
    }

    async fn drive(&self, attempt: &Attempt, first: domain::Command) -> Outcome {
        let mut next = first;
        for _ in 0..MOST_ROUNDS {
            // Late or not, what the processor did is a fact and goes on record: only the beginning is too late after `not_after`.
            let mut key = attempt.key.clone();
            if matches!(next, domain::Command::Finish { .. }) {
                key.not_after = None;
            }
            let command = Command {
                key,
                payment_id: attempt.payment_id.clone(),
                command: next,
            };
            let reply = match self.ledger.execute(command).await {
                Ok(executed) => executed.reply,
                Err(error) => return failed(&error),
            };
            next = match reply {
                Reply::Done(outcome) => return outcome,
                Reply::Call(operation, details) => {
                    match self.call(attempt, operation, details).await {
                        Ok(answer) => domain::Command::Finish { operation, answer },
                        Err(error) => return unanswered(&error),
                    }
                }
                Reply::Ask(operation) => {
                    match self
                        .processor
                        .status(&attempt.payment_id, operation, attempt.left())
                        .await
                    {
                        Ok(answer) => domain::Command::Undo {
                            asked: Some(Asked { operation, answer }),
                        },
                        Err(error) => return unanswered(&error),
                    }
                }
            };
        }
        Outcome::transient(
            "PAYMENT_UNSETTLED",
            "the payment processor's answers contradict each other; try again",
        )
    }

    async fn call(
        &self,
        attempt: &Attempt,
        operation: Operation,
        details: Details,
    ) -> Result<domain::Answer, CallError> {
        let request = Request {
            key: operation.key(&attempt.payment_id),
            payment_id: attempt.payment_id.clone(),
            operation,
            amount: details.amount,
            payment_method: details.payment_method,
        };
        self.processor.perform(&request, attempt.left()).await
    }
}

/// One attempt of a step.
struct Attempt {
    key: Key,
    payment_id: String,
    ends: Instant,
}

impl Attempt {
    fn of(command: &StepCommand, payment_id: String) -> Self {
        let margin = MARGIN.min(command.timeout / 10);
        Self {
            key: command.key(),
            payment_id,
            ends: Instant::now() + command.timeout.saturating_sub(margin),
        }
    }

    /// How long the processor may take.
    fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }
}

/// What a step answers when the processor did not.
fn unanswered(error: &CallError) -> Outcome {
    match error {
        CallError::Open(left) => {
            Outcome::transient_after("PROCESSOR_CIRCUIT_OPEN", error.to_string(), *left)
        }
        CallError::Unavailable => Outcome::transient("PROCESSOR_UNAVAILABLE", error.to_string()),
        CallError::NoAnswer(_) => Outcome::unknown("PROCESSOR_NO_ANSWER", error.to_string()),
    }
}

/// What a step answers when the ledger could not decide it. The processor may have been called before.
fn failed(error: &ExecuteError<Damaged>) -> Outcome {
    match error {
        ExecuteError::Rejected(damaged) => {
            tracing::error!(%damaged, "a step could not be decided");
            Outcome::unknown(
                "STORAGE_DAMAGED",
                "payments cannot read a stored record: look at the service's log",
            )
        }
        ExecuteError::Overloaded => Outcome::unknown(
            "OVERLOADED",
            "payments has too many changes waiting; try again later",
        ),
        ExecuteError::Unavailable => Outcome::unknown("SHUTTING_DOWN", error.to_string()),
        ExecuteError::Storage(error) => {
            tracing::error!(%error, "a step could not be stored");
            Outcome::unknown(
                "STORAGE_FAILED",
                "payments could not store the step; try again",
            )
        }
    }
}

/// The order's id: the input `order_id`, or the saga's own id, which is the same for place-order.
fn payment_id(command: &StepCommand) -> Result<String, Outcome> {
    let id = command.text("order_id").unwrap_or(&command.saga_id);
    if is_payment_id(id) {
        Ok(id.to_owned())
    } else {
        Err(invalid(
            "input field `order_id` is not 1 to 128 characters of [A-Za-z0-9._:-]",
        ))
    }
}

#[derive(Deserialize)]
struct TotalInput {
    minor_units: i64,
    currency: String,
}

fn authorize(command: &StepCommand) -> Result<domain::Command, Outcome> {
    let total: TotalInput = command.json("total")?;
    if !(0..=MAX_AMOUNT_MINOR).contains(&total.minor_units) {
        let says = format!(
            "input field `total`: minor_units is {}, not 0 to {MAX_AMOUNT_MINOR}",
            total.minor_units
        );
        return Err(invalid(says));
    }
    if !is_currency(&total.currency) {
        return Err(invalid(
            "input field `total`: currency is not three upper-case letters",
        ));
    }
    let customer_id = short(command, "customer_id")?;
    let payment_method = short(command, "payment_method")?;
    let amount = Money {
        minor_units: total.minor_units,
        currency: total.currency,
    };
    Ok(domain::Command::Authorize(Details {
        customer_id,
        amount,
        payment_method,
    }))
}

fn short(command: &StepCommand, field: &str) -> Result<String, Outcome> {
    let text = command.required(field)?;
    if text.is_empty() || text.chars().count() > MAX_ID_CHARS || text.chars().any(char::is_control)
    {
        return Err(invalid(format!(
            "input field `{field}` is not 1 to {MAX_ID_CHARS} characters"
        )));
    }
    Ok(text.to_owned())
}

fn invalid(message: impl Into<String>) -> Outcome {
    Outcome::rejected("INPUT_INVALID", message)
}
