//! `shop.orders.v1.OrderService`.

use std::pin::pin;
use std::time::Duration;

use chassis::{Problem, deadline};
use ledger::Ledger;
use prost::Message as _;
use sagamesh_api::shop::orders::v1::order_service_server::OrderService;
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, CancelOrderResponse, GetOrderRequest, GetOrderResponse, ListOrdersRequest,
    ListOrdersResponse, Order, PlaceOrderRequest, PlaceOrderResponse, WatchOrderRequest,
};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request, Response, Status};

use crate::decider::{Command, Orders, Reply, RequestKey};
use crate::domain::{
    AvailabilityProblem, OrderEvent, PricedOrder, ValidOrder, price, validate_cancel,
    validate_place,
};
use crate::errors::{ERRORS, invalid, not_found, refused};
use crate::ids::Ids;
use crate::inventory::Inventory;
use crate::projection::{ORDERS, show};
use crate::queries::Queries;
use crate::watch::{Hub, OrderStream};

/// How long inventory may think before a repeated request is looked up meanwhile.
const PATIENCE: Duration = Duration::from_millis(50);
/// Time between two looks for an order that the read side does not show yet.
const LOOK: Duration = Duration::from_millis(10);
/// How long a read waits for the read side when the call has no deadline.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// The service.
pub(crate) struct Service {
    pub(crate) ledger: Ledger<Orders>,
    pub(crate) queries: Queries,
    pub(crate) inventory: Inventory,
    pub(crate) hub: Hub,
    pub(crate) ids: Ids,
}

#[tonic::async_trait]
impl OrderService for Service {
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<PlaceOrderResponse>, Status> {
        let order = validate_place(request.into_inner()).map_err(invalid)?;
        Ok(Response::new(self.place(order).await?))
    }

    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_position).await?;
        let order = self.owned(&request.order_id, &request.customer_id).await?;
        Ok(Response::new(GetOrderResponse { order: Some(order) }))
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let request = request.into_inner();
        self.reach(request.min_position).await?;
        Ok(Response::new(self.queries.list(&request).await?))
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<CancelOrderResponse>, Status> {
        let mut request = request.into_inner();
        validate_cancel(&request).map_err(invalid)?;
        request.order_id.make_ascii_lowercase();
        Ok(Response::new(self.cancel(request).await?))
    }

    type WatchOrderStream = OrderStream;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<OrderStream>, Status> {
        let request = request.into_inner();
        // Following comes before reading, so that no change falls in between.
        let watch = self.hub.watch(&request.order_id);
        self.reach(watch.position()).await?;
        let order = self.owned(&request.order_id, &request.customer_id).await?;
        Ok(Response::new(watch.stream(order)))
    }
}

impl Service {
    async fn place(&self, order: ValidOrder) -> Result<PlaceOrderResponse, Problem> {
        let replay = request_key(
            "place",
            order.request().customer_id.as_str(),
            &order.request().request_id,
            || {
                PlaceOrderRequest {
                    request_id: String::new(),
                    ..order.request().clone()
                }
                .encode_to_vec()
            },
        );
        let lines = order.request().lines.clone();
        let mut check = pin!(self.inventory.check(&lines));
        let answer = tokio::select! {
            biased;
            answer = &mut check => answer,
            () = tokio::time::sleep(PATIENCE) => match self.look_up(&replay).await? {
                Some(before) => return Ok(before),
                None => check.await,
            },
        };
        let priced = answer.and_then(|answer| price(order, &answer).map_err(unavailable));
        match priced {
            Ok(priced) => self.append(priced, replay).await,
            // What was placed before is placed, whatever inventory says now.
            Err(problem) => self.look_up(&replay).await?.ok_or(problem),
        }
    }

    async fn append(
        &self,
        priced: PricedOrder,
        replay: RequestKey,
    ) -> Result<PlaceOrderResponse, Problem> {
        let order_id = self.ids.next();
        let mut placed = priced.into_placed(&order_id);
        placed.traceparent = chassis::trace::current().unwrap_or_default();
        let command = Command::Place {
            placed: Box::new(placed.clone()),
            replay,
        };
        let done = self.ledger.execute(command).await.map_err(refused)?;
        match done.reply {
            Reply::Placed(now) => {
                let mut order = None;
                show(&mut order, &OrderEvent::Placed(placed), 1, now);
                metrics::counter!("orders_placed_total").increment(1);
                Ok(PlaceOrderResponse {
                    order: order.map(|order| *order),
                    position: done.position,
                })
            }
            Reply::Replayed(order_id) => self.placed_before(&order_id, done.position).await,
            Reply::Done | Reply::New | Reply::State(_) | Reply::Outcome(_) => {
                Err(ERRORS.storage(false, &"an order was not answered as one"))
            }
        }
    }

    /// The order that the same request placed before.
    async fn look_up(&self, replay: &RequestKey) -> Result<Option<PlaceOrderResponse>, Problem> {
        let done = self
            .ledger
            .execute(Command::LookUp(replay.clone()))
            .await
            .map_err(refused)?;
        match done.reply {
            Reply::Replayed(order_id) => {
                self.placed_before(&order_id, done.position).await.map(Some)
            }
            Reply::Done | Reply::New | Reply::Placed(_) | Reply::State(_) | Reply::Outcome(_) => {
                Ok(None)
            }
        }
    }

    async fn placed_before(
        &self,
        order_id: &str,
        position: u64,
    ) -> Result<PlaceOrderResponse, Problem> {
        self.reach(position).await?;
        let order = self.shown(order_id).await?.ok_or_else(not_found)?;
        Ok(PlaceOrderResponse {
            order: Some(order),
            position,
        })
    }

    async fn cancel(&self, request: CancelOrderRequest) -> Result<CancelOrderResponse, Problem> {
        let CancelOrderRequest {
            order_id,
            customer_id,
            reason,
            request_id,
        } = request;
        let replay = (!request_id.is_empty()).then(|| {
            request_key("cancel", &customer_id, &request_id, || {
                [order_id.as_bytes(), b"\0", reason.as_bytes()].concat()
            })
        });
        let refund_saga_id = self.ids.next();
        let command = Command::Cancel {
            order_id: order_id.clone(),
            customer_id,
            reason,
            refund_saga_id,
            replay,
            trace: chassis::trace::current().unwrap_or_default(),
        };
        let done = self.ledger.execute(command).await.map_err(refused)?;
        self.reach(done.position).await?;
        let order = self.shown(&order_id).await?.ok_or_else(not_found)?;
        Ok(CancelOrderResponse {
            order: Some(order),
            position: done.position,
        })
    }

    /// Waits until the read side has this position.
    async fn reach(&self, position: u64) -> Result<(), Problem> {
        let ledger = &self.ledger;
        ledger.reach(ORDERS, position, READ_PATIENCE, ERRORS).await
    }

    /// An order of this customer (empty for anybody's).
    async fn owned(&self, order_id: &str, customer_id: &str) -> Result<Order, Problem> {
        let order = self.shown(&order_id.to_ascii_lowercase()).await?;
        order
            .filter(|order| customer_id.is_empty() || order.customer_id == customer_id)
            .ok_or_else(not_found)
    }

    /// An order as the read side shows it. That follows the log: an order that was just placed, here or at another replica, is
    /// there a moment later.
    async fn shown(&self, order_id: &str) -> Result<Option<Order>, Problem> {
        let order = self.queries.get(order_id).await?;
        // Only what can be an id: others' commands are read together with this one.
        let may_be = order.is_none() && uuid::Uuid::parse_str(order_id).is_ok();
        if !may_be || !self.is_placed(order_id).await? {
            return Ok(order);
        }
        let patience = deadline::patience(READ_PATIENCE);
        let looking = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Some(order) = self.queries.get(order_id).await? {
                    return Ok(Some(order));
                }
            }
        };
        let looked = tokio::time::timeout(patience, looking).await;
        looked.unwrap_or_else(|_| Err(ERRORS.behind("the order")))
    }

    /// Whether the log has an order, as it is now, whoever wrote it.
    async fn is_placed(&self, order_id: &str) -> Result<bool, Problem> {
        let read = Command::Read(order_id.to_owned());
        let done = self.ledger.execute(read).await.map_err(refused)?;
        Ok(matches!(done.reply, Reply::State(state) if state.order.is_some()))
    }
}

/// Where a request is found again: by whose it is and its id, with a hash of what it says.
fn request_key(
    kind: &str,
    customer_id: &str,
    request_id: &str,
    content: impl FnOnce() -> Vec<u8>,
) -> RequestKey {
    RequestKey {
        key: format!("{kind}/{}/{customer_id}", request_id.to_ascii_lowercase()),
        fingerprint: Sha256::digest(content()).into(),
    }
}

/// What inventory's answer means for the caller.
fn unavailable(problem: AvailabilityProblem) -> Problem {
    match problem {
        AvailabilityProblem::Invalid(found) => invalid(found),
        AvailabilityProblem::Insufficient(short) => {
            let skus: Vec<&str> = short.iter().map(|(sku, _, _)| sku.as_str()).collect();
            let message = format!("too little stock of {}: order less of it", skus.join(", "));
            let problem = ERRORS.problem(Code::FailedPrecondition, "INSUFFICIENT_STOCK", message);
            short
                .iter()
                .fold(problem, |problem, (sku, requested, available)| {
                    problem.metadata(
                        sku.clone(),
                        format!("requested={requested} available={available}"),
                    )
                })
        }
        AvailabilityProblem::Nonsense(what) => {
            tracing::error!(what, "inventory's answer makes no sense");
            ERRORS.problem(
                Code::Internal,
                "INVENTORY_ANSWER_INVALID",
                format!("{what}: the order was not placed"),
            )
        }
    }
}
