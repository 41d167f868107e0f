//! `/v1/orders/{id}/events`: an order's changes as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{self, Stream};
use sagamesh_api::shop::orders::v1 as api;
use tonic::{Code, Status};

use super::extract::Segment;
use super::model::Order;
use crate::auth::Caller;
use crate::gateway::Gateway;
use crate::problem::{HttpProblem, ProblemJson};

/// Streams an order's changes until it ends.
///
/// Each event is named `order`, has the order's `etag` as id and the order as JSON as data; after the last one comes `end`. An `error` event says that
/// the stream broke or, with the reason TOKEN_EXPIRED, that the token has expired: connect again, the first event is always the order as it is.
#[utoipa::path(
    get, path = "/v1/orders/{id}/events", tag = "orders", params(("id" = String, Path, description = "UUID of the order.")),
    responses(
        (status = 200, description = "The changes.", content_type = "text/event-stream"),
        (status = 404, description = "The caller has no such order.", body = ProblemJson, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["orders:read"]))
)]
pub(crate) async fn order_events(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, HttpProblem> {
    caller.require("orders:read")?;
    let watch = gateway.watch(id, caller, None).await?;
    let events = stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        loop {
            match watch.next().await {
                Ok(Some(api::WatchOrderResponse { order: Some(order) })) => {
                    return Some((Ok(order_event(order)), Some(watch)));
                }
                // A heartbeat; the keep-alive below is ours.
                Ok(Some(api::WatchOrderResponse { order: None })) => {}
                Ok(None) => return Some((Ok(Event::default().event("end").data("{}")), None)),
                Err(status) => return Some((Ok(broken(&status)), None)),
            }
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))))
}

/// The last event of a stream that did not come to its end.
fn broken(status: &Status) -> Event {
    let data = if status.code() == Code::Unauthenticated {
        r#"{"reason":"TOKEN_EXPIRED","detail":"the token has expired: connect again with a new one"}"#
    } else {
        tracing::warn!(code = ?status.code(), message = status.message(), "an order's stream broke");
        r#"{"reason":"STREAM_BROKEN","detail":"the stream broke: connect again"}"#
    };
    Event::default().event("error").data(data)
}

fn order_event(order: api::Order) -> Event {
    let etag = order.etag.replace(['\n', '\r', '\0'], "");
    Event::default()
        .event("order")
        .id(etag)
        .json_data(Order::from(order))
        .unwrap_or_default()
}
