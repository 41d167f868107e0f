//! `/v1/items`: the catalogue and its stock.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use sagamesh_api::shop::inventory::v1 as api;
use tonic::Status;

use super::extract::{Json, Query, Segment};
use super::model::{Item, ItemPage, ItemsQuery, ReadQuery, RestockRequest};
use super::{at_position, request_id};
use crate::auth::Caller;
use crate::backends::within;
use crate::gateway::Gateway;
use crate::problem::{HttpProblem, ProblemJson};

/// Lists items by SKU.
#[utoipa::path(
    get, path = "/v1/items", tag = "items", params(ItemsQuery),
    responses((status = 200, description = "A page.", body = ItemPage)),
    security(("bearer" = ["inventory:read"]))
)]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ItemsQuery>,
) -> Result<axum::Json<ItemPage>, HttpProblem> {
    caller.require("inventory:read")?;
    let request = api::ListItemsRequest {
        page_size: query.page_size,
        page_token: query.page_token,
    };
    let page = gateway
        .backends
        .inventory
        .clone()
        .list_items(within(gateway.timeout, request))
        .await?
        .into_inner();
    Ok(axum::Json(ItemPage {
        items: page.items.into_iter().map(Item::from).collect(),
        next_page_token: page.next_page_token,
    }))
}

/// Returns an item.
#[utoipa::path(
    get, path = "/v1/items/{sku}", tag = "items", params(("sku" = String, Path, description = "What."), ReadQuery),
    responses(
        (status = 200, description = "The item.", body = Item),
        (status = 404, description = "No such item.", body = ProblemJson, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["inventory:read"]))
)]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Segment(sku): Segment,
    Query(query): Query<ReadQuery>,
) -> Result<axum::Json<Item>, HttpProblem> {
    caller.require("inventory:read")?;
    let request = api::GetItemRequest {
        sku,
        min_position: query.min_position,
    };
    let answer = gateway
        .backends
        .inventory
        .clone()
        .get_item(within(gateway.timeout, request))
        .await?
        .into_inner();
    let item = answer
        .item
        .ok_or_else(|| Status::internal("inventory answered without an item"))?;
    Ok(axum::Json(item.into()))
}

/// Adds stock, and creates the item when it is new.
#[utoipa::path(
    post, path = "/v1/items/{sku}/restock", tag = "items", params(("sku" = String, Path, description = "What.")), request_body = RestockRequest,
    responses(
        (status = 200, description = "The item.", body = Item),
        (status = 400, description = "Fields are wrong.", body = ProblemJson, content_type = "application/problem+json"),
        (status = 403, description = "The token lacks `inventory:write`.", body = ProblemJson, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["inventory:write"]))
)]
pub(crate) async fn restock(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Segment(sku): Segment,
    headers: HeaderMap,
    Json(restock): Json<RestockRequest>,
) -> Result<Response, HttpProblem> {
    caller.require("inventory:write")?;
    let request = api::RestockRequest {
        request_id: request_id(&headers, restock.request_id)?,
        sku,
        quantity: restock.quantity,
        name: restock.name,
        unit_price: restock.unit_price.map(Into::into),
    };
    let answer = gateway
        .backends
        .inventory
        .clone()
        .restock(within(gateway.timeout, request))
        .await?
        .into_inner();
    let item = answer
        .item
        .ok_or_else(|| Status::internal("inventory answered without an item"))?;
    Ok(at_position(answer.position, axum::Json(Item::from(item))))
}
