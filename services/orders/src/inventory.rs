//! Asking inventory whether the stock is there: within 5 s, behind a circuit breaker.

use std::time::Duration;

use chassis::{Breaker, Env, PeerChannel, Problem, Tasks};
use sagamesh_api::shop::inventory::v1::inventory_service_client::InventoryServiceClient;
use sagamesh_api::shop::inventory::v1::{CheckAvailabilityRequest, LineAvailability, StockLine};
use sagamesh_api::shop::orders::v1::OrderLine;
use tonic::{Code, Status};

use crate::errors::ERRORS;

/// How long inventory may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Failures in a row that open the breaker.
const FAILURES: u32 = 5;
/// When to try again after a single failure.
const RETRY: Duration = Duration::from_secs(1);

/// Inventory, as orders sees it. Clones share the breaker.
#[derive(Clone, Debug)]
pub struct Inventory {
    client: InventoryServiceClient<PeerChannel>,
    breaker: Breaker,
    env: Env,
    tasks: Tasks,
}

impl Inventory {
    /// Inventory at this address; its breaker stays open for `recovery` before one call probes.
    #[must_use]
    pub fn new(peer: &str, recovery: Duration, env: &Env, tasks: &Tasks) -> Self {
        Self {
            client: InventoryServiceClient::new(chassis::channel(env, peer)),
            breaker: Breaker::new(FAILURES, recovery),
            env: env.clone(),
            tasks: tasks.clone(),
        }
    }

    /// What is there of these lines, and at what price.
    ///
    /// # Errors
    /// UNAVAILABLE (INVENTORY_UNAVAILABLE) with RetryInfo when inventory cannot say.
    pub async fn check(&self, lines: &[OrderLine]) -> Result<Vec<LineAvailability>, Problem> {
        let permit = match self.breaker.try_acquire(self.env.clock.now_millis()) {
            Ok(permit) => permit,
            Err(open) => {
                count("breaker_open");
                return Err(unavailable(
                    "inventory has failed repeatedly and is left alone for a while",
                )
                .retry_after(open.hint(&self.env)));
            }
        };
        let lines = lines
            .iter()
            .map(|line| StockLine {
                sku: line.sku.clone(),
                quantity: line.quantity,
            })
            .collect();
        let (mut client, token) = (self.client.clone(), self.tasks.token());
        let trace = chassis::trace::current();
        // A task of its own: a caller that hangs up, or has little time left, says nothing about inventory's health.
        let call = self.tasks.spawn("check availability", async move {
            let mut request = tonic::Request::new(CheckAvailabilityRequest { lines });
            request.set_timeout(DEADLINE);
            let check = client.check_availability(request);
            let check = chassis::trace::scope(trace.as_deref(), check);
            let check = tokio::time::timeout(DEADLINE, check);
            let answer = match token.run_until_cancelled(check).await {
                Some(Ok(answer)) => answer,
                Some(Err(_)) => Err(Status::deadline_exceeded(
                    "inventory did not answer within 5 s",
                )),
                None => Err(Status::cancelled("orders is shutting down")),
            };
            match answer {
                Ok(answer) => {
                    permit.success();
                    Ok(answer.into_inner().lines)
                }
                // It answered: what it said is about the request or its load, not about its health.
                Err(status) if answered(status.code()) => {
                    permit.success();
                    Err(status)
                }
                Err(status) => {
                    permit.failure();
                    Err(status)
                }
            }
        });
        match call.await {
            Ok(Ok(lines)) => {
                count("answered");
                Ok(lines)
            }
            Ok(Err(status)) => {
                count("failed");
                tracing::warn!(code = ?status.code(), message = status.message(), "inventory could not check availability");
                Err(unavailable("inventory cannot check the stock right now").retry_after(RETRY))
            }
            Err(error) => {
                tracing::error!(%error, "the availability check ended early");
                Err(unavailable("orders is shutting down").retry_after(RETRY))
            }
        }
    }
}

fn answered(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::OutOfRange
    )
}

fn unavailable(what: &str) -> Problem {
    ERRORS.problem(
        Code::Unavailable,
        "INVENTORY_UNAVAILABLE",
        format!("{what}: the order was not placed, try again with the same request_id"),
    )
}

fn count(outcome: &'static str) {
    metrics::counter!("orders_availability_checks_total", "outcome" => outcome).increment(1);
}
