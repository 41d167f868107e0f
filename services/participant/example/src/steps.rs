//! The saga steps: parse the command, then one transaction behind the barrier.

use std::sync::Arc;

use chassis::{Clock, Env};
use participant::{Builder, Outcome, Participant, StepCommand, barrier};
use sqlx::SqliteConnection;

use crate::points::{self, Points};

/// The participant `loyalty`, ready to run.
pub fn participant(points: &Points, coordinator: &str, env: &Env) -> Builder {
    let (adding, removing) = (points.clone(), points.clone());
    let (add_clock, remove_clock) = (Arc::clone(&env.clock), Arc::clone(&env.clock));
    Participant::builder("loyalty", coordinator, env)
        .concurrency(16)
        .action("loyalty.AddPoints", move |command| {
            add_points(adding.clone(), Arc::clone(&add_clock), command)
        })
        .compensation("loyalty.RemovePoints", move |command| {
            remove_points(removing.clone(), Arc::clone(&remove_clock), command)
        })
}

/// Gives a customer points. Input: `customer_id`, `points` (a whole number above 0). Output: the new balance.
async fn add_points(
    points: Points,
    clock: Arc<dyn Clock>,
    command: StepCommand,
) -> Result<Outcome, Outcome> {
    let (customer, amount) = input(&command)?;
    let mut connection = points.connection().await.map_err(unavailable)?;
    let (key, now) = (command.key(), || clock.now_millis());
    let add = async |tx: &mut SqliteConnection| {
        Ok(Outcome::text(
            points::add(tx, &customer, amount).await?.to_string(),
        ))
    };
    Ok(barrier::sql::guarded(&mut *connection, &key, now, add).await)
}

/// Takes the points back. It runs only if they were given, so too few means that they were spent meanwhile: nothing was undone,
/// and an operator decides.
async fn remove_points(
    points: Points,
    clock: Arc<dyn Clock>,
    command: StepCommand,
) -> Result<Outcome, Outcome> {
    let (customer, amount) = input(&command)?;
    let mut connection = points.connection().await.map_err(unavailable)?;
    let (key, now) = (command.key(), || clock.now_millis());
    let remove = async |tx: &mut SqliteConnection| {
        Ok(match points::remove(tx, &customer, amount).await? {
            Some(balance) => Outcome::text(balance.to_string()),
            None => Outcome::rejected(
                "POINTS_SPENT",
                "the customer has spent the points meanwhile",
            ),
        })
    };
    Ok(barrier::sql::guarded(&mut *connection, &key, now, remove).await)
}

fn input(command: &StepCommand) -> Result<(String, i64), Outcome> {
    let customer = command.required("customer_id")?.to_owned();
    let points: i64 = command.json("points")?;
    if points <= 0 {
        return Err(Outcome::rejected(
            "POINTS_INVALID",
            format!("`points` is {points}, it must be above 0"),
        ));
    }
    Ok((customer, points))
}

fn unavailable(error: sqlx::Error) -> Outcome {
    tracing::warn!(%error, "no database connection");
    Outcome::transient(
        "DATABASE_UNAVAILABLE",
        "no database connection was free; nothing was done",
    )
}
