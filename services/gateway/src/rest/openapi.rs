//! `/openapi.json`, made from the handlers' own descriptions.

use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{events, items, orders};

/// The description of the REST API.
#[derive(Debug, OpenApi)]
#[openapi(
    info(title = "sagamesh shop", description = "Orders that end done or undone. Amounts are in minor units; times are RFC 3339 in UTC; errors are problem details (RFC 9457)."),
    paths(
        orders::place, orders::list, orders::get, orders::cancel, orders::dashboard, events::order_events,
        items::list, items::get, items::restock
    ),
    modifiers(&Bearer)
)]
pub struct ApiDoc;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.bearer_format = Some("JWT".to_owned());
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

pub(crate) async fn document() -> Response {
    axum::Json(ApiDoc::openapi()).into_response()
}
