//! Expiry asks, it does not act: what a live saga holds is never released by a clock.
//!
//! The sweeper looks for held reservations past their expire time, in bounded batches, and asks the coordinator about each
//! one's saga. It is released if that saga has ended, or if the coordinator does not know it well after it must have begun.
//! If the saga was completed past its pivot, the goods are sold and an operator skipped `commit-stock`: then it is
//! committed.

use std::time::Duration;

use chassis::{Env, PeerChannel, Tasks};
use ledger::Ledger;
use metrics::Counter;
use sagamesh_api::saga::v1 as saga;
use sagamesh_api::saga::v1::saga_service_client::SagaServiceClient;
use tonic::Code;

use crate::decider::{Command, Inventory, Reply};
use crate::domain::{self, Settlement};
use crate::queries::{self, Due};

/// How long one question to the coordinator may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// After so many reservations in a row that could not be looked at, a round ends: it is not one of them then, it is the coordinator.
const MOST_FAILURES: usize = 5;

/// How the sweeper works.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Time between two rounds.
    pub interval: Duration,
    /// How long after its expiry a reservation is released whose saga the coordinator does not know.
    pub start_window: Duration,
    /// Most reservations that one round asks about.
    pub batch: u32,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            start_window: Duration::from_secs(600),
            batch: 100,
        }
    }
}

/// What the coordinator says about a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is open: it may still need what it holds.
    Open,
    /// It was undone, or completed without a point of no return.
    Over,
    /// It was completed past its point of no return.
    Completed,
    /// The coordinator does not know it.
    Unknown,
}

/// What to do with a reservation that expired `overdue` ago.
pub fn verdict(fate: Fate, overdue: Duration, start_window: Duration) -> Option<Settlement> {
    match fate {
        Fate::Open => None,
        Fate::Over => Some(Settlement::Expire),
        Fate::Completed => Some(Settlement::Commit),
        Fate::Unknown => (overdue >= start_window).then_some(Settlement::Expire),
    }
}

/// Looks after expired reservations.
pub struct Sweeper {
    ledger: Ledger<Inventory>,
    coordinator: SagaServiceClient<PeerChannel>,
    env: Env,
    sweep: Sweep,
    /// Where the next round goes on, so that reservations of long sagas do not hide those behind them.
    after: Due,
    settled: Counter,
    kept: Counter,
    unanswered: Counter,
}

impl Sweeper {
    /// A sweeper that asks `coordinator`.
    pub fn new(
        ledger: Ledger<Inventory>,
        coordinator: PeerChannel,
        env: Env,
        sweep: Sweep,
    ) -> Self {
        let counter = |result: &'static str| metrics::counter!("inventory_expired_reservations_total", "result" => result);
        Self {
            ledger,
            coordinator: SagaServiceClient::new(coordinator),
            env,
            sweep,
            after: first(),
            settled: counter("settled"),
            kept: counter("kept"),
            unanswered: counter("unanswered"),
        }
    }

    /// Runs as an owned task until shutdown.
    pub fn run(mut self, tasks: &Tasks) {
        let stop = tasks.draining();
        tasks.spawn_essential("reservation-sweeper", async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(self.sweep.interval) => {}
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    result = self.round() => if let Err(error) = result {
                        tracing::warn!(%error, "expired reservations could not be looked at; the next round tries again");
                    },
                }
            }
        });
    }

    /// One round: asks about a batch, and returns how many reservations it settled.
    ///
    /// # Errors
    /// If the database or the coordinator does not answer, for several reservations in a row. One that fails alone is passed over.
    pub async fn round(&mut self) -> anyhow::Result<usize> {
        let now = self.env.clock.now_millis();
        let due = queries::due(&self.ledger.reader(), now, &self.after, self.sweep.batch).await?;
        let (mut settled, mut in_a_row) = (0, 0);
        for (index, reservation) in due.iter().enumerate() {
            // Also one that fails: at every round it would hide those behind it.
            self.after = reservation.clone();
            match self.look_at(reservation, now).await {
                Ok(done) => {
                    settled += usize::from(done);
                    in_a_row = 0;
                }
                Err(error) => {
                    in_a_row += 1;
                    if in_a_row == MOST_FAILURES || in_a_row == due.len() {
                        return Err(error.context(format!("reservation `{}`", reservation.id)));
                    }
                    let left = due.len() - index - 1;
                    tracing::warn!(reservation = reservation.id, %error, left, "an expired reservation could not be looked at");
                }
            }
        }
        if due.len() < self.sweep.batch as usize {
            self.after = first();
        }
        Ok(settled)
    }

    /// Looks at one; whether it was settled.
    async fn look_at(&mut self, reservation: &Due, now: i64) -> anyhow::Result<bool> {
        let fate = self.ask(&reservation.id).await.map_err(|status| {
            self.unanswered.increment(1);
            anyhow::anyhow!("the coordinator did not say what became of its saga: {status}")
        })?;
        let overdue = u64::try_from(now.saturating_sub(reservation.expire_millis)).unwrap_or(0);
        match verdict(
            fate,
            Duration::from_millis(overdue),
            self.sweep.start_window,
        ) {
            Some(how) => {
                self.settle(reservation, how).await?;
                Ok(true)
            }
            None => {
                self.kept.increment(1);
                Ok(false)
            }
        }
    }

    async fn ask(&mut self, saga_id: &str) -> Result<Fate, tonic::Status> {
        let mut request = tonic::Request::new(saga::GetSagaRequest {
            saga_id: saga_id.to_owned(),
        });
        request.set_timeout(ASK_TIMEOUT);
        match self.coordinator.get_saga(request).await {
            Ok(response) => Ok(response
                .into_inner()
                .saga
                .map_or(Fate::Unknown, |saga| fate(&saga))),
            Err(status) if status.code() == Code::NotFound => Ok(Fate::Unknown),
            Err(status) => Err(status),
        }
    }

    async fn settle(&self, reservation: &Due, how: Settlement) -> anyhow::Result<()> {
        let id = &reservation.id;
        let mut skus = Vec::new();
        for _ in 0..3 {
            let settle = domain::Command::Settle {
                reservation_id: id.clone(),
                how,
                skus,
            };
            match self.ledger.execute(Command::Own(settle)).await?.reply {
                Reply::Names(names) => skus = names,
                Reply::Settled { changed } => {
                    if changed {
                        self.settled.increment(1);
                        tracing::info!(reservation = %id, ?how, "settled a reservation that no saga needs any more");
                    }
                    return Ok(());
                }
                Reply::Item(_) | Reply::Outcome(_) => break,
            }
        }
        anyhow::bail!("reservation `{id}` could not be settled")
    }
}

impl std::fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweeper")
            .field("sweep", &self.sweep)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

/// The place before all reservations.
fn first() -> Due {
    Due {
        id: String::new(),
        expire_millis: i64::MIN,
    }
}

fn fate(saga: &saga::Saga) -> Fate {
    match saga.state() {
        saga::SagaState::Completed if saga.pivot_dispatched => Fate::Completed,
        saga::SagaState::Completed
        | saga::SagaState::Compensated
        | saga::SagaState::CompensatedWithLeftovers => Fate::Over,
        saga::SagaState::Unspecified
        | saga::SagaState::Running
        | saga::SagaState::Compensating
        | saga::SagaState::Parked => Fate::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_saga_needs_is_settled() {
        let (early, late, window) = (
            Duration::from_secs(1),
            Duration::from_secs(700),
            Duration::from_secs(600),
        );
        for overdue in [early, late] {
            assert_eq!(verdict(Fate::Open, overdue, window), None);
            assert_eq!(
                verdict(Fate::Over, overdue, window),
                Some(Settlement::Expire)
            );
            assert_eq!(
                verdict(Fate::Completed, overdue, window),
                Some(Settlement::Commit)
            );
        }
        assert_eq!(verdict(Fate::Unknown, early, window), None);
        assert_eq!(
            verdict(Fate::Unknown, window, window),
            Some(Settlement::Expire)
        );
    }

    #[test]
    fn every_state_of_a_saga_has_a_fate() {
        for (state, pivot, expected) in [
            (saga::SagaState::Running, false, Fate::Open),
            (saga::SagaState::Running, true, Fate::Open),
            (saga::SagaState::Compensating, false, Fate::Open),
            (saga::SagaState::Parked, true, Fate::Open),
            (saga::SagaState::Completed, true, Fate::Completed),
            (saga::SagaState::Completed, false, Fate::Over),
            (saga::SagaState::Compensated, false, Fate::Over),
            (saga::SagaState::CompensatedWithLeftovers, false, Fate::Over),
        ] {
            let saga = saga::Saga {
                state: state as i32,
                pivot_dispatched: pivot,
                ..Default::default()
            };
            assert_eq!(fate(&saga), expected, "{state:?} {pivot}");
        }
    }
}
