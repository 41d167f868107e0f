//! From a request to an order: everything that can be wrong with it, and its price.

use std::collections::{BTreeMap, BTreeSet};

use sagamesh_api::shop::inventory::v1::LineAvailability;
use sagamesh_api::shop::orders::v1::{
    CancelOrderRequest, OrderLine, OrderPlaced, PlaceOrderRequest,
};
use sagamesh_api::shop::v1::Money;

/// Most lines of an order.
const MAX_LINES: usize = 50;
/// Most pieces of a line.
const MAX_QUANTITY: u32 = 10_000;
/// The largest total, in minor units.
pub const MAX_TOTAL_MINOR: i64 = 1_000_000_000_000;

/// What is wrong with a field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, for example `lines[2].sku`.
    pub field: String,
    /// What is wrong, without repeating what was sent.
    pub description: String,
}

/// A request in which everything is in order.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidOrder(PlaceOrderRequest);

/// An order with its prices, ready to be placed.
#[derive(Clone, Debug, PartialEq)]
pub struct PricedOrder {
    lines: Vec<OrderLine>,
    total: Money,
    request: PlaceOrderRequest,
}

/// Why an order cannot be placed with what inventory answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AvailabilityProblem {
    /// The request is wrong: unknown SKUs, other prices or another currency, too large a total.
    Invalid(Vec<Violation>),
    /// Too little stock: SKU, asked for, free.
    Insufficient(Vec<(String, u32, u64)>),
    /// Inventory's answer does not fit its question.
    Nonsense(String),
}

/// Checks a request. All that is wrong at once.
///
/// # Errors
/// Every violation, by field.
pub fn validate_place(request: PlaceOrderRequest) -> Result<ValidOrder, Vec<Violation>> {
    let mut found = Found::default();
    found.check(
        is_uuid(&request.request_id),
        "request_id",
        "must be a UUID such as 0198c5f0-0000-7000-8000-000000000000",
    );
    check_customer(&mut found, &request.customer_id);
    check_lines(&mut found, &request);
    found.check(
        is_token(&request.payment_method, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
        }),
        "payment_method",
        "must have 1 to 64 characters of a-z, 0-9 and _",
    );
    found.check(
        is_currency(&request.currency),
        "currency",
        "must be an ISO 4217 code: three upper-case letters, for example EUR",
    );
    found.check(
        request.contact_email.is_empty() || is_email(&request.contact_email),
        "contact_email",
        "must be an e-mail address of at most 254 characters such as name@example.com, or empty",
    );
    found.into_result().map(|()| ValidOrder(request))
}

/// Checks a cancellation.
///
/// # Errors
/// Every violation, by field.
pub fn validate_cancel(request: &CancelOrderRequest) -> Result<(), Vec<Violation>> {
    let mut found = Found::default();
    found.check(
        is_uuid(&request.order_id),
        "order_id",
        "must be the UUID of an order",
    );
    found.check(
        request.customer_id.chars().count() <= 128,
        "customer_id",
        "must have at most 128 characters",
    );
    found.check(
        request.reason.chars().count() <= 500,
        "reason",
        "must have at most 500 characters",
    );
    found.check(
        request.request_id.is_empty() || is_uuid(&request.request_id),
        "request_id",
        "must be a UUID, or empty for a cancellation that is not told from another one",
    );
    found.into_result()
}

/// Puts inventory's prices on the order.
///
/// # Errors
/// [`AvailabilityProblem`]: what the caller must change comes before too little stock.
pub fn price(
    order: ValidOrder,
    answer: &[LineAvailability],
) -> Result<PricedOrder, AvailabilityProblem> {
    let request = order.0;
    let by_sku: BTreeMap<&str, &LineAvailability> = answer
        .iter()
        .map(|line| (line.sku.as_str(), line))
        .collect();
    let mut found = Found::default();
    let mut short = Vec::new();
    let mut lines = Vec::with_capacity(request.lines.len());
    let mut total = Some(0_i64);
    for (index, line) in request.lines.iter().enumerate() {
        let Some(answer) = by_sku.get(line.sku.as_str()) else {
            return Err(AvailabilityProblem::Nonsense(format!(
                "inventory did not answer for lines[{index}]"
            )));
        };
        if answer.unknown {
            found.add(
                format!("lines[{index}].sku"),
                "there is no such SKU in the catalogue",
            );
            continue;
        }
        let Some(unit) = answer
            .unit_price
            .as_ref()
            .filter(|price| price.minor_units >= 0)
        else {
            return Err(AvailabilityProblem::Nonsense(format!(
                "inventory gave no price for lines[{index}]"
            )));
        };
        if unit.currency != request.currency {
            found.add(
                "currency".to_owned(),
                &format!("lines[{index}] is sold in {}", unit.currency),
            );
        }
        if line.unit_price.as_ref().is_some_and(|asked| asked != unit) {
            let description = format!(
                "the price is {} {} in minor units: send that, or no price",
                unit.minor_units, unit.currency
            );
            found.add(format!("lines[{index}].unit_price"), &description);
        }
        if answer.available < u64::from(line.quantity) {
            short.push((line.sku.clone(), line.quantity, answer.available));
        }
        total = total.and_then(|sum| {
            sum.checked_add(unit.minor_units.checked_mul(i64::from(line.quantity))?)
        });
        lines.push(OrderLine {
            unit_price: Some(unit.clone()),
            ..line.clone()
        });
    }
    let total = total.filter(|sum| *sum <= MAX_TOTAL_MINOR);
    if total.is_none() {
        found.add(
            "lines".to_owned(),
            &format!("the total is above {MAX_TOTAL_MINOR} minor units"),
        );
    }
    found.into_result().map_err(AvailabilityProblem::Invalid)?;
    if !short.is_empty() {
        return Err(AvailabilityProblem::Insufficient(short));
    }
    let total = Money {
        minor_units: total.unwrap_or_default(),
        currency: request.currency.clone(),
    };
    Ok(PricedOrder {
        lines,
        total,
        request,
    })
}

impl ValidOrder {
    /// The request as it came.
    #[must_use]
    pub fn request(&self) -> &PlaceOrderRequest {
        &self.0
    }
}

impl PricedOrder {
    /// The event that places it under this id.
    #[must_use]
    pub fn into_placed(self, order_id: &str) -> OrderPlaced {
        OrderPlaced {
            order_id: order_id.to_owned(),
            customer_id: self.request.customer_id,
            lines: self.lines,
            total: Some(self.total),
            payment_method: self.request.payment_method,
            contact_email: self.request.contact_email,
            traceparent: String::new(),
        }
    }
}

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn check(&mut self, ok: bool, field: &str, description: &str) {
        if !ok {
            self.add(field.to_owned(), description);
        }
    }

    fn add(&mut self, field: String, description: &str) {
        self.0.push(Violation {
            field,
            description: description.to_owned(),
        });
    }

    fn into_result(self) -> Result<(), Vec<Violation>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0)
        }
    }
}

fn check_customer(found: &mut Found, customer_id: &str) {
    let length = customer_id.chars().count();
    let ok = (1..=128).contains(&length) && !customer_id.chars().any(char::is_control);
    found.check(
        ok,
        "customer_id",
        "must have 1 to 128 characters, none of them a control character",
    );
}

fn check_lines(found: &mut Found, request: &PlaceOrderRequest) {
    let count = request.lines.len();
    found.check(
        (1..=MAX_LINES).contains(&count),
        "lines",
        "must have 1 to 50 entries",
    );
    let mut seen = BTreeSet::new();
    // A request with thousands of lines is answered with the first few.
    for (index, line) in request.lines.iter().take(MAX_LINES).enumerate() {
        let sku_ok = is_token(&line.sku, |c| {
            c.is_ascii_alphanumeric() || c == '_' || c == '-'
        });
        found.check(
            sku_ok,
            &format!("lines[{index}].sku"),
            "must have 1 to 64 characters of A-Z, a-z, 0-9, _ and -",
        );
        if sku_ok && !seen.insert(line.sku.as_str()) {
            found.add(
                format!("lines[{index}].sku"),
                "is in the order already: add the quantities up in one line",
            );
        }
        found.check(
            (1..=MAX_QUANTITY).contains(&line.quantity),
            &format!("lines[{index}].quantity"),
            "must be from 1 to 10,000",
        );
        if let Some(price) = &line.unit_price {
            found.check(
                (0..=MAX_TOTAL_MINOR).contains(&price.minor_units),
                &format!("lines[{index}].unit_price.minor_units"),
                "must be from 0 to 1,000,000,000,000",
            );
            found.check(
                price.currency == request.currency,
                &format!("lines[{index}].unit_price.currency"),
                "must be the order's currency",
            );
        }
    }
}

fn is_token(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(allowed)
}

fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The hyphenated form, in either case.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// An address that a mail server would take from us: ASCII, a local part of at most 64, a dotted or single-label domain.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let local_ok = (1..=64).contains(&local.len())
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".!#$%&'*+-/=?^_`{|}~".contains(&byte));
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 254 && local_ok && domain.split('.').all(label_ok)
}
