//! The gateway in the name of one customer.

use std::time::Duration;

use sagamesh_api::shop::orders::v1::order_service_client::OrderServiceClient;
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, GetOrderRequest, ListOrdersRequest, Order, OrderStatus, PlaceOrderRequest,
    WatchOrderRequest,
};

use crate::connect::{self, Channel};
use crate::failure::{Exit, Failure, from_status};
use crate::system::System;
use crate::token;

/// Time between two looks at an order.
const AGAIN: Duration = Duration::from_millis(20);

/// The gateway in the name of one customer.
pub(crate) struct Shop {
    client: OrderServiceClient<Channel>,
    token: String,
}

impl Shop {
    /// With a token made for `customer`.
    pub(crate) fn open(system: &System, customer: &str) -> anyhow::Result<Shop> {
        let token = token::make(
            &system.data_dir,
            &token::Names::from_environment(),
            customer,
            token::CUSTOMER_SCOPES,
            Duration::from_secs(3_600),
        )?;
        Shop::with_token(system, token)
    }

    pub(super) fn with_token(system: &System, token: String) -> anyhow::Result<Shop> {
        Ok(Shop {
            client: OrderServiceClient::new(connect::channel(&system.gateway)),
            token,
        })
    }

    /// Places an order.
    pub(crate) async fn place(&mut self, request: PlaceOrderRequest) -> anyhow::Result<Order> {
        let request = connect::authorized(request, &self.token)?;
        let answer = self
            .client
            .place_order(request)
            .await
            .map_err(|status| from_status("gateway", "placing the order", &status))?;
        Ok(answer.into_inner().order.unwrap_or_default())
    }

    /// Reads an order.
    pub(crate) async fn get(&mut self, order_id: &str) -> anyhow::Result<Order> {
        let request = GetOrderRequest {
            order_id: order_id.to_owned(),
            ..Default::default()
        };
        let answer = self
            .client
            .get_order(connect::authorized(request, &self.token)?)
            .await;
        let answer = answer.map_err(|status| {
            from_status("gateway", &format!("reading order {order_id}"), &status)
        })?;
        Ok(answer.into_inner().order.unwrap_or_default())
    }

    /// Asks for an order to be cancelled.
    pub(crate) async fn cancel(&mut self, order_id: &str, reason: String) -> anyhow::Result<Order> {
        let request_id = uuid::Uuid::now_v7().to_string();
        let request = CancelOrderRequest {
            order_id: order_id.to_owned(),
            customer_id: String::new(),
            reason,
            request_id,
        };
        let answer = self
            .client
            .cancel_order(connect::authorized(request, &self.token)?)
            .await;
        let answer = answer.map_err(|status| {
            from_status("gateway", &format!("cancelling order {order_id}"), &status)
        })?;
        Ok(answer.into_inner().order.unwrap_or_default())
    }

    /// The order once it has this status, or has ended otherwise. Outlives a gateway or a service that is away for a moment.
    pub(crate) async fn until(
        &mut self,
        order_id: &str,
        status: OrderStatus,
    ) -> anyhow::Result<Order> {
        loop {
            match self.get(order_id).await {
                Ok(order) if order.status() == status || failed(&order) => return Ok(order),
                Ok(_) => {}
                Err(error) if unanswered(&error) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The order once it is confirmed, rejected or refunded.
    pub(crate) async fn until_ended(&mut self, order_id: &str) -> anyhow::Result<Order> {
        self.until(order_id, OrderStatus::Confirmed).await
    }

    pub(super) async fn list(&mut self, limit: usize) -> anyhow::Result<(Vec<Order>, String)> {
        let mut orders: Vec<Order> = Vec::new();
        let mut page_token = String::new();
        while orders.len() < limit {
            let page_size = i32::try_from((limit - orders.len()).min(500))?;
            let request = ListOrdersRequest {
                page_size,
                page_token,
                ..Default::default()
            };
            let answer = self
                .client
                .list_orders(connect::authorized(request, &self.token)?)
                .await;
            let page = answer
                .map_err(|status| from_status("gateway", "listing orders", &status))?
                .into_inner();
            orders.extend(page.orders);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok((orders, page_token))
    }

    /// Hands the order to `each` whenever it changes, until it ends.
    pub(super) async fn watch(
        &mut self,
        order_id: &str,
        mut each: impl FnMut(&Order) -> anyhow::Result<()>,
    ) -> anyhow::Result<Order> {
        let failed = |status: tonic::Status| {
            from_status("gateway", &format!("following order {order_id}"), &status)
        };
        let message = WatchOrderRequest {
            order_id: order_id.to_owned(),
            customer_id: String::new(),
        };
        let mut request = tonic::Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {}", self.token).parse()?);
        let mut stream = self
            .client
            .watch_order(request)
            .await
            .map_err(failed)?
            .into_inner();
        let mut last = Order::default();
        while let Some(message) = stream.message().await.map_err(failed)? {
            let Some(order) = message.order else { continue };
            each(&order)?;
            last = order;
            if ended(last.status()) {
                break;
            }
        }
        Ok(last)
    }
}

fn failed(order: &Order) -> bool {
    matches!(
        order.status(),
        OrderStatus::Rejected | OrderStatus::Refunded
    )
}

fn unanswered(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Failure>()
        .is_some_and(|failure| failure.exit == Exit::NotRunning)
}

/// Whether nothing more happens to it by itself.
fn ended(status: OrderStatus) -> bool {
    matches!(
        status,
        OrderStatus::Confirmed | OrderStatus::Rejected | OrderStatus::Refunded
    )
}
