//! The steps that notifications does in sagas. Each succeeds once its notification is durably on record: handing it over is owed from there on, so
//! that a mail server that is down never holds up a saga.

use chassis::{Env, Tasks};
use ledger::{ExecuteError, Ledger};
use participant::{Outcome, Participant, Running, StepCommand};
use sagamesh_api::shop::notifications::v1::{NotificationKind, NotificationRecorded};

use crate::decider::{Command, Notifications};
use crate::domain::{Line, Total, compose};
use crate::mail::recipient;

/// Commands that run at the same time; they wait for the log's group commit.
const CONCURRENCY: u32 = 256;

/// Connects notifications to the coordinator as the participant `notifications`.
///
/// # Errors
/// If the coordinator's address is none.
pub(crate) fn participate(
    ledger: &Ledger<Notifications>,
    coordinator: &str,
    env: &Env,
    tasks: &Tasks,
) -> Result<Running, participant::BuildError> {
    let step = |kind: NotificationKind| {
        let ledger = ledger.clone();
        move |command: StepCommand| {
            let ledger = ledger.clone();
            async move {
                match note(&command, kind) {
                    Ok(note) => run(&ledger, &command, note).await,
                    Err(refused) => refused,
                }
            }
        }
    };
    Participant::builder("notifications", coordinator, env)
        .concurrency(CONCURRENCY)
        .action(
            "notifications.SendConfirmation",
            step(NotificationKind::Confirmation),
        )
        .action(
            "notifications.SendRefundNotice",
            step(NotificationKind::Refund),
        )
        .run(tasks)
}

/// What to record for a command. Only the order's id is indispensable: the shop's customers are told less rather than nothing.
fn note(command: &StepCommand, kind: NotificationKind) -> Result<NotificationRecorded, Outcome> {
    let order_id = command.required("order_id")?;
    if uuid::Uuid::try_parse(order_id).is_err() {
        return Err(Outcome::rejected(
            "INPUT_INVALID",
            "input field `order_id` is no UUID",
        ));
    }
    let text = |field: &str| command.text(field).unwrap_or_default();
    let lines: Vec<Line> = command.json("lines").unwrap_or_default();
    let total: Total = command.json("total").unwrap_or_default();
    let reason = if kind == NotificationKind::Refund {
        text("reason")
    } else {
        ""
    };
    Ok(compose(
        kind,
        order_id,
        text("customer_id"),
        &recipient(text("contact_email")),
        &lines,
        &total,
        reason,
    ))
}

async fn run(
    ledger: &Ledger<Notifications>,
    command: &StepCommand,
    mut note: NotificationRecorded,
) -> Outcome {
    note.traceparent = chassis::trace::current().unwrap_or_default();
    match ledger
        .execute(Command::Step {
            key: command.key(),
            note: Box::new(note),
        })
        .await
    {
        Ok(done) => done.reply.unwrap_or_else(Outcome::done),
        Err(ExecuteError::Rejected(never)) => match never {},
        Err(ExecuteError::Overloaded) => Outcome::transient(
            "OVERLOADED",
            "too many commands are waiting at notifications",
        ),
        Err(ExecuteError::Unavailable) => {
            Outcome::unknown("SHUTTING_DOWN", "notifications is shutting down")
        }
        Err(ExecuteError::Storage(error)) => {
            tracing::error!(%error, "the database of notifications failed");
            Outcome::transient(
                "STORAGE_UNAVAILABLE",
                "notifications cannot write to its database",
            )
        }
    }
}
