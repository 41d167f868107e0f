//! `/openapi.json`, made from the handlers' own descriptions.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use http::header;
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

/// Made once: everybody may ask for it.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = ApiDoc::openapi().to_json();
    // Plain structs with string keys: this cannot fail, and the tests read it.
    text.unwrap_or_default().into()
});

pub(crate) async fn document() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, DOCUMENT.clone()).into_response()
}
