//! `shop.inventory.v1.InventoryService`.

use std::collections::BTreeMap;
use std::time::Duration;

use chassis::{Domain, Problem, Violations, page};
use ledger::{ExecuteError, Ledger};
use sagamesh_api::shop::inventory::v1 as api;
use sagamesh_api::shop::inventory::v1::inventory_service_server::InventoryService;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use crate::decider::{Command, Inventory, Refusal, Reply};
use crate::domain::{self, is_currency, is_reservation_id, is_sku};
use crate::{projection, queries};

/// Who speaks in errors.
pub const ERRORS: Domain = Domain("inventory.sagamesh");

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;
/// How long a read waits for its position when the call has no deadline.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const OVERLOADED_RETRY: Duration = Duration::from_millis(250);

/// The service.
#[derive(Clone)]
pub struct InventoryApi {
    ledger: Ledger<Inventory>,
}

impl InventoryApi {
    /// A service on `ledger`.
    pub fn new(ledger: Ledger<Inventory>) -> Self {
        Self { ledger }
    }

    async fn reach(&self, position: u64) -> Result<(), Problem> {
        let ledger = &self.ledger;
        ledger
            .reach(projection::NAME, position, LONGEST_WAIT, ERRORS)
            .await
    }
}

#[tonic::async_trait]
impl InventoryService for InventoryApi {
    async fn check_availability(
        &self,
        request: Request<api::CheckAvailabilityRequest>,
    ) -> Result<Response<api::CheckAvailabilityResponse>, Status> {
        let lines = request.into_inner().lines;
        check_lines(&lines)?;
        let skus: Vec<&str> = lines.iter().map(|line| line.sku.as_str()).collect();
        let items = queries::these_items(&self.ledger.reader(), &skus)
            .await
            .map_err(storage)?;
        let items: BTreeMap<&str, &api::Item> =
            items.iter().map(|item| (item.sku.as_str(), item)).collect();
        let lines: Vec<api::LineAvailability> = lines
            .iter()
            .map(|line| availability(line, items.get(line.sku.as_str()).copied()))
            .collect();
        let available = lines
            .iter()
            .all(|line| !line.unknown && line.available >= u64::from(line.requested));
        Ok(Response::new(api::CheckAvailabilityResponse {
            available,
            lines,
        }))
    }

    async fn restock(
        &self,
        request: Request<api::RestockRequest>,
    ) -> Result<Response<api::RestockResponse>, Status> {
        let request = request.into_inner();
        let restock = check_restock(&request)?;
        let done = self
            .ledger
            .execute(Command::Restock { request, restock })
            .await
            .map_err(|error| problem(&error))?;
        match done.reply {
            Reply::Item(item) => Ok(Response::new(api::RestockResponse {
                item: Some(item),
                position: done.position,
            })),
            Reply::Outcome(_) | Reply::Names(_) | Reply::Settled { .. } => Err(ERRORS
                .problem(
                    Code::Internal,
                    "UNEXPECTED_REPLY",
                    "the restock was decided as something else",
                )
                .into()),
        }
    }

    async fn get_item(
        &self,
        request: Request<api::GetItemRequest>,
    ) -> Result<Response<api::GetItemResponse>, Status> {
        let api::GetItemRequest { sku, min_position } = request.into_inner();
        if !is_sku(&sku) {
            return Err(ERRORS.invalid_field("sku", SKU_RULE).into());
        }
        self.reach(min_position).await?;
        let item = queries::item(&self.ledger.reader(), &sku)
            .await
            .map_err(storage)?;
        let item = item.ok_or_else(|| {
            ERRORS
                .problem(
                    Code::NotFound,
                    "UNKNOWN_SKU",
                    format!("there is no item `{sku}`"),
                )
                .metadata("sku", &sku)
        })?;
        Ok(Response::new(api::GetItemResponse { item: Some(item) }))
    }

    async fn list_items(
        &self,
        request: Request<api::ListItemsRequest>,
    ) -> Result<Response<api::ListItemsResponse>, Status> {
        let request = request.into_inner();
        let size = page::page_size(ERRORS, request.page_size, DEFAULT_PAGE, MAX_PAGE)?;
        let after = page::decode_token(ERRORS, "items", &request.page_token)?.unwrap_or_default();
        let after = String::from_utf8(after)
            .map_err(|_| ERRORS.invalid_field("page_token", "is not a token"))?;
        let mut items = queries::items(&self.ledger.reader(), &after, size + 1)
            .await
            .map_err(storage)?;
        let more = items.len() > size as usize;
        items.truncate(size as usize);
        let next_page_token = match items.last() {
            Some(last) if more => page::encode_token("items", last.sku.as_bytes()),
            _ => String::new(),
        };
        Ok(Response::new(api::ListItemsResponse {
            items,
            next_page_token,
        }))
    }

    async fn get_reservation(
        &self,
        request: Request<api::GetReservationRequest>,
    ) -> Result<Response<api::GetReservationResponse>, Status> {
        let api::GetReservationRequest {
            reservation_id: id,
            min_position,
        } = request.into_inner();
        if !is_reservation_id(&id) {
            let rule = "must be 1 to 128 characters of [A-Za-z0-9._:-]";
            return Err(ERRORS.invalid_field("reservation_id", rule).into());
        }
        self.reach(min_position).await?;
        let reservation = queries::reservation(&self.ledger.reader(), &id)
            .await
            .map_err(storage)?;
        let reservation = reservation.ok_or_else(|| {
            ERRORS.problem(
                Code::NotFound,
                "RESERVATION_UNKNOWN",
                format!("nothing was ever reserved for `{id}`"),
            )
        })?;
        Ok(Response::new(api::GetReservationResponse {
            reservation: Some(reservation),
        }))
    }
}

const SKU_RULE: &str = "must be 1 to 64 characters of [A-Za-z0-9_-]";

fn availability(line: &api::StockLine, item: Option<&api::Item>) -> api::LineAvailability {
    api::LineAvailability {
        sku: line.sku.clone(),
        requested: line.quantity,
        available: item.map_or(0, |item| item.available),
        unit_price: item.and_then(|item| item.unit_price.clone()),
        unknown: item.is_none(),
    }
}

fn check_lines(lines: &[api::StockLine]) -> Result<(), Problem> {
    let mut wrong = Violations::new();
    if lines.is_empty() || lines.len() > domain::MAX_LINES {
        wrong.add(
            "lines",
            format!(
                "must be 1 to {} lines, not {}",
                domain::MAX_LINES,
                lines.len()
            ),
        );
        return wrong.into_result(ERRORS);
    }
    for (index, line) in lines.iter().enumerate() {
        if !is_sku(&line.sku) {
            wrong.add(format!("lines[{index}].sku"), SKU_RULE);
        } else if lines[..index].iter().any(|earlier| earlier.sku == line.sku) {
            wrong.add(
                format!("lines[{index}].sku"),
                format!("repeats `{}`: join the lines", line.sku),
            );
        }
        if !(1..=domain::MAX_LINE_QUANTITY).contains(&line.quantity) {
            let rule = format!(
                "must be 1 to {}, not {}",
                domain::MAX_LINE_QUANTITY,
                line.quantity
            );
            wrong.add(format!("lines[{index}].quantity"), rule);
        }
    }
    wrong.into_result(ERRORS)
}

/// Checks the form of a restock. What depends on the item is checked when it is decided.
fn check_restock(request: &api::RestockRequest) -> Result<domain::Restock, Problem> {
    let mut wrong = Violations::new();
    if Uuid::parse_str(&request.request_id).is_err() {
        wrong.add(
            "request_id",
            "must be a UUID chosen by you, for example 0198c5f0-8c1e-7aaa-8000-0123456789ab",
        );
    }
    if !is_sku(&request.sku) {
        wrong.add("sku", SKU_RULE);
    }
    if !(1..=domain::MAX_STOCK).contains(&request.quantity) {
        wrong.add(
            "quantity",
            format!(
                "must be 1 to {}, not {}",
                domain::MAX_STOCK,
                request.quantity
            ),
        );
    }
    let name = request.name.trim();
    if name.chars().count() > domain::MAX_NAME_CHARS || name.chars().any(char::is_control) {
        wrong.add(
            "name",
            format!(
                "must be at most {} characters without control characters",
                domain::MAX_NAME_CHARS
            ),
        );
    }
    if let Some(price) = &request.unit_price {
        if !(0..=domain::MAX_PRICE_MINOR).contains(&price.minor_units) {
            let rule = format!(
                "must be 0 to {}, not {}",
                domain::MAX_PRICE_MINOR,
                price.minor_units
            );
            wrong.add("unit_price.minor_units", rule);
        }
        if !is_currency(&price.currency) {
            wrong.add(
                "unit_price.currency",
                "must be an ISO 4217 code of three upper-case letters, for example EUR",
            );
        }
    }
    wrong.into_result(ERRORS)?;
    let price = request
        .unit_price
        .as_ref()
        .map(|price| (price.minor_units, price.currency.clone()));
    Ok(domain::Restock {
        sku: request.sku.clone(),
        quantity: request.quantity,
        name: name.to_owned(),
        price,
    })
}

/// The one place that says what an error of the ledger is to a caller.
fn problem(error: &ExecuteError<Refusal>) -> Problem {
    match error {
        ExecuteError::Rejected(Refusal::Domain(rejection)) => refused(rejection),
        ExecuteError::Rejected(reused @ Refusal::RequestIdReused(_)) => ERRORS
            .problem(Code::AlreadyExists, "REQUEST_ID_REUSED", reused.to_string())
            .field("request_id", "was used for another request"),
        ExecuteError::Rejected(Refusal::Damaged(detail)) => {
            tracing::error!(detail, "a stored row cannot be read");
            ERRORS.problem(
                Code::Internal,
                "STORAGE_DAMAGED",
                "a stored record cannot be read: look at the service's log",
            )
        }
        ExecuteError::Overloaded => ERRORS
            .problem(
                Code::ResourceExhausted,
                "OVERLOADED",
                "inventory has too many changes waiting: try again later",
            )
            .retry_after(OVERLOADED_RETRY),
        ExecuteError::Unavailable => ERRORS
            .problem(
                Code::Unavailable,
                "SHUTTING_DOWN",
                "inventory is shutting down: send the same request again",
            )
            .retry_after(OVERLOADED_RETRY),
        ExecuteError::Storage(error) => storage(error.0.clone()),
    }
}

fn refused(rejection: &domain::Rejection) -> Problem {
    let (code, field) = match rejection {
        domain::Rejection::NewItemIncomplete { missing, .. } => {
            (Code::InvalidArgument, Some(*missing))
        }
        domain::Rejection::CurrencyMismatch { .. } => {
            (Code::FailedPrecondition, Some("unit_price.currency"))
        }
        domain::Rejection::StockLimit { .. } => (Code::FailedPrecondition, Some("quantity")),
        _ => (Code::FailedPrecondition, None),
    };
    let problem = ERRORS.problem(code, rejection.reason(), rejection.to_string());
    match field {
        Some(field) => problem.field(field, rejection.to_string()),
        None => problem,
    }
}

fn storage(error: ledger::Error) -> Problem {
    ERRORS.storage(error.is_transient(), &error)
}
