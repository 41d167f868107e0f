//! An order's changes, passed on while the gateway serves and the caller's token is good.

use std::time::Duration;

use sagamesh_api::shop::orders::v1::{WatchOrderRequest, WatchOrderResponse};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};

use crate::ERRORS;
use crate::auth::Caller;
use crate::gateway::Gateway;

/// The changes of an order of this caller.
pub(crate) struct Watch {
    changes: Streaming<WatchOrderResponse>,
    draining: CancellationToken,
    caller: Caller,
}

impl Watch {
    /// The next message; none when the order has ended.
    ///
    /// # Errors
    /// UNAVAILABLE (SHUTTING_DOWN), UNAUTHENTICATED (TOKEN_EXPIRED), or what orders says. It is the last thing that there is.
    pub(crate) async fn next(&mut self) -> Result<Option<WatchOrderResponse>, Status> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(shutting_down()),
            expired = self.caller.expired() => Err(expired.into()),
            change = self.changes.message() => change,
        }
    }
}

impl Gateway {
    /// Watches an order of the caller. A stream has a deadline only if its caller wants one.
    ///
    /// # Errors
    /// What orders says, or DEADLINE_EXCEEDED if it says nothing in time.
    pub(crate) async fn watch(
        &self,
        order_id: String,
        caller: Caller,
        deadline: Option<Duration>,
    ) -> Result<Watch, Status> {
        let mut onward = Request::new(WatchOrderRequest {
            order_id,
            customer_id: caller.subject.clone(),
        });
        if let Some(deadline) = deadline {
            onward.set_timeout(deadline);
        }
        let mut orders = self.backends.orders.clone();
        let changes = self.first_answer(orders.watch_order(onward)).await?;
        Ok(Watch {
            changes: changes.into_inner(),
            draining: self.draining.clone(),
            caller,
        })
    }
}

fn shutting_down() -> Status {
    let text = "the gateway is shutting down: connect again";
    ERRORS
        .problem(Code::Unavailable, "SHUTTING_DOWN", text)
        .retry_after(Duration::from_secs(1))
        .into()
}
