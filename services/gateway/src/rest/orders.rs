//! `/v1/orders` and the customer's dashboard.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sagamesh_api::shop::orders::v1 as api;
use tonic::Status;

use super::extract::{Json, Query, Segment, body, parse, prefer_wait};
use super::model::{
    CancelRequest, Dashboard, NewOrder, Order, OrderDetails, OrderPage, PageQuery, ReadQuery,
};
use super::{at_position, request_id};
use crate::ERRORS;
use crate::auth::Caller;
use crate::backends::within;
use crate::compose;
use crate::gateway::Gateway;
use crate::problem::{HttpProblem, ProblemJson};

/// How many orders the dashboard shows.
const DASHBOARD_ORDERS: i32 = 20;

/// Places an order.
///
/// Answers 202 with the PENDING order at once, or with `Prefer: wait=N` 201 once it is CONFIRMED or REJECTED (202 if that takes longer than N seconds).
#[utoipa::path(
    post, path = "/v1/orders", tag = "orders", request_body = NewOrder,
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "UUID: the same request again returns the same order."),
        ("Prefer" = Option<String>, Header, description = "wait=N: answer when the order has ended, after at most N seconds (60 at most)."),
    ),
    responses(
        (status = 201, description = "The order has ended: CONFIRMED or REJECTED.", body = Order),
        (status = 202, description = "The order is PENDING; follow `Location`.", body = Order),
        (status = 400, description = "Fields are wrong.", body = ProblemJson, content_type = "application/problem+json"),
        (status = 401, description = "No valid token.", body = ProblemJson, content_type = "application/problem+json"),
        (status = 403, description = "The token lacks `orders:write`.", body = ProblemJson, content_type = "application/problem+json"),
        (status = 409, description = "Too little stock, or the request id was used for another order.", body = ProblemJson, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests.", body = ProblemJson, content_type = "application/problem+json"),
        (status = 503, description = "Stock cannot be checked just now.", body = ProblemJson, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["orders:write"]))
)]
pub(crate) async fn place(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(new): Json<NewOrder>,
) -> Result<Response, HttpProblem> {
    caller.require("orders:write")?;
    let wait = prefer_wait(&headers)?;
    let line = |line: super::model::NewLine| api::OrderLine {
        sku: line.sku,
        quantity: line.quantity,
        unit_price: line.unit_price.map(Into::into),
    };
    let request = api::PlaceOrderRequest {
        request_id: request_id(&headers, new.request_id)?,
        customer_id: caller.subject.clone(),
        lines: new.lines.into_iter().map(line).collect(),
        payment_method: new.payment_method,
        currency: new.currency,
        contact_email: new.contact_email,
    };
    let placed = gateway
        .backends
        .orders
        .clone()
        .place_order(within(gateway.timeout, request))
        .await?
        .into_inner();
    let mut order = placed
        .order
        .ok_or_else(|| Status::internal("orders answered without an order"))?;
    if let Some(wait) = wait {
        order = wait_for_end(&gateway, &caller, order, wait).await;
    }

    let status = if order.status() == api::OrderStatus::Pending {
        StatusCode::ACCEPTED
    } else {
        StatusCode::CREATED
    };
    let location = format!("/v1/orders/{}", order.order_id);
    let mut response = at_position(placed.position, (status, axum::Json(Order::from(order))));
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Some(Ok(applied)) =
        wait.map(|wait| HeaderValue::from_str(&format!("wait={}", wait.as_secs())))
    {
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

/// The order when it has ended, or as it is when the time is over or watching fails.
async fn wait_for_end(
    gateway: &Gateway,
    caller: &Caller,
    mut order: api::Order,
    wait: Duration,
) -> api::Order {
    let watch = async {
        let request = api::WatchOrderRequest {
            order_id: order.order_id.clone(),
            customer_id: caller.subject.clone(),
        };
        let mut changes = gateway
            .backends
            .orders
            .clone()
            .watch_order(request)
            .await?
            .into_inner();
        while let Some(change) = changes.message().await? {
            if let Some(now) = change.order {
                order = now;
                if order.status() != api::OrderStatus::Pending {
                    break;
                }
            }
        }
        Ok::<(), Status>(())
    };
    // At shutdown what is known is the answer: the order goes on without us.
    let watch = gateway.draining.run_until_cancelled(watch);
    if let Ok(Some(Err(status))) = tokio::time::timeout(wait, watch).await {
        tracing::warn!(code = ?status.code(), message = status.message(), "watching an order failed: answering with what is known");
    }
    order
}

/// Lists the caller's orders, newest first.
#[utoipa::path(
    get, path = "/v1/orders", tag = "orders", params(PageQuery),
    responses((status = 200, description = "A page.", body = OrderPage), (status = 400, description = "The query is wrong.", body = ProblemJson, content_type = "application/problem+json")),
    security(("bearer" = ["orders:read"]))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<OrderPage>, HttpProblem> {
    caller.require("orders:read")?;
    let status = match &query.status {
        None => api::OrderStatus::Unspecified,
        Some(name) => {
            api::OrderStatus::from_str_name(&format!("ORDER_STATUS_{name}")).ok_or_else(|| {
                ERRORS.invalid_field(
                    "status",
                    "is one of PENDING, CONFIRMED, REJECTED, REFUNDING, REFUNDED",
                )
            })?
        }
    };
    let request = api::ListOrdersRequest {
        customer_id: caller.subject,
        status: status.into(),
        page_size: query.page_size,
        page_token: query.page_token,
        min_position: query.min_position,
    };
    let page = gateway
        .backends
        .orders
        .clone()
        .list_orders(within(gateway.timeout, request))
        .await?
        .into_inner();
    Ok(axum::Json(OrderPage {
        orders: page.orders.into_iter().map(Order::from).collect(),
        next_page_token: page.next_page_token,
    }))
}

/// Returns an order with its payment, stock and notifications.
///
/// When one of those services is down the answer comes without its part, and `partial` names it.
#[utoipa::path(
    get, path = "/v1/orders/{id}", tag = "orders", params(("id" = String, Path, description = "UUID of the order."), ReadQuery),
    responses(
        (status = 200, description = "The order.", body = OrderDetails),
        (status = 404, description = "The caller has no such order.", body = ProblemJson, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["orders:read"]))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    Query(query): Query<ReadQuery>,
) -> Result<axum::Json<OrderDetails>, HttpProblem> {
    caller.require("orders:read")?;
    let request = api::GetOrderRequest {
        order_id: id,
        customer_id: caller.subject,
        min_position: query.min_position,
    };
    let answer = gateway
        .backends
        .orders
        .clone()
        .get_order(within(gateway.timeout, request))
        .await?
        .into_inner();
    let order = answer
        .order
        .ok_or_else(|| Status::internal("orders answered without an order"))?;
    Ok(axum::Json(
        compose::order_details(&gateway.backends, order.into()).await,
    ))
}

/// Cancels an order.
#[utoipa::path(
    post, path = "/v1/orders/{id}/cancel", tag = "orders", params(("id" = String, Path, description = "UUID of the order.")), request_body = CancelRequest,
    responses(
        (status = 202, description = "The cancellation is on record: the order is undone, or refunded once it is confirmed (`cancel_requested`, or its status, says so).", body = Order),
        (status = 404, description = "The caller has no such order.", body = ProblemJson, content_type = "application/problem+json"),
        (status = 409, description = "The order was rejected: there is nothing to cancel.", body = ProblemJson, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["orders:write"]))
)]
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Result<Response, HttpProblem> {
    caller.require("orders:write")?;
    let body = body(request, &gateway).await?;
    let cancel: CancelRequest = if body.is_empty() {
        CancelRequest::default()
    } else {
        parse(&body)?
    };
    let request = api::CancelOrderRequest {
        order_id: id,
        customer_id: caller.subject,
        reason: cancel.reason,
        request_id: request_id(&headers, None)?,
    };
    let cancelled = gateway
        .backends
        .orders
        .clone()
        .cancel_order(within(gateway.timeout, request))
        .await?
        .into_inner();
    let order = cancelled
        .order
        .ok_or_else(|| Status::internal("orders answered without an order"))?;
    Ok(at_position(
        cancelled.position,
        (StatusCode::ACCEPTED, axum::Json(Order::from(order))),
    ))
}

/// The customer's page in one answer: the newest orders with their payments, sums, and messages.
#[utoipa::path(
    get, path = "/v1/me/dashboard", tag = "me",
    responses((status = 200, description = "The page.", body = Dashboard)),
    security(("bearer" = ["orders:read"]))
)]
pub(crate) async fn dashboard(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, HttpProblem> {
    caller.require("orders:read")?;
    let request = api::ListOrdersRequest {
        customer_id: caller.subject.clone(),
        page_size: DASHBOARD_ORDERS,
        ..Default::default()
    };
    let orders = gateway
        .backends
        .orders
        .clone()
        .list_orders(within(gateway.timeout, request))
        .await?
        .into_inner()
        .orders;
    let orders = orders.into_iter().map(Order::from).collect();
    Ok(
        axum::Json(compose::dashboard(&gateway.backends, caller.subject, orders).await)
            .into_response(),
    )
}
