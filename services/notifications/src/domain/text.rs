//! The words.

use std::fmt::Write as _;

use sagamesh_api::shop::notifications::v1::{NotificationKind, NotificationRecorded};
use serde::Deserialize;

/// A line of the order, as the sagas carry it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Line {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: u32,
    /// Price of one, in minor units.
    #[serde(default)]
    pub unit_price_minor: i64,
}

/// The order's total, as the sagas carry it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Total {
    /// Minor units of the currency.
    pub minor_units: i64,
    /// ISO 4217 code.
    pub currency: String,
}

/// Writes a notification. `reason` is what a rejected or refunded customer is told about it; empty for none.
#[must_use]
pub fn compose(
    kind: NotificationKind,
    order_id: &str,
    customer_id: &str,
    recipient: &str,
    lines: &[Line],
    total: &Total,
    reason: &str,
) -> NotificationRecorded {
    let (subject, opening) = match kind {
        NotificationKind::Receipt => (
            "We received your order",
            "thank you. We received your order and are working on it.",
        ),
        NotificationKind::Confirmation => (
            "Your order is confirmed",
            "your order is paid and confirmed.",
        ),
        NotificationKind::Rejection => (
            "Your order could not be completed",
            "your order could not be completed. You were not charged.",
        ),
        NotificationKind::Refund => (
            "Your order was refunded",
            "your order was cancelled and your money is on its way back.",
        ),
        NotificationKind::Unspecified => ("About your order", "there is news about your order."),
    };
    let mut body = format!("Hello,\n\n{opening}\n\nOrder {}\n", one_line(order_id));
    if !reason.is_empty() {
        let _ = writeln!(body, "Reason: {}", one_line(reason));
    }
    for line in lines {
        let _ = writeln!(body, "  {} x {}", line.quantity, one_line(&line.sku));
    }
    if !total.currency.is_empty() {
        let _ = writeln!(body, "Total: {}", amount(total));
    }
    NotificationRecorded {
        order_id: order_id.to_owned(),
        customer_id: customer_id.to_owned(),
        kind: kind.into(),
        recipient: recipient.to_owned(),
        subject: format!("{subject} ({})", one_line(order_id)),
        body,
        traceparent: String::new(),
    }
}

/// `19.99 EUR`. Currencies without minor units show none; those with three, three.
fn amount(total: &Total) -> String {
    let digits = match total.currency.as_str() {
        "JPY" | "KRW" | "CLP" | "ISK" | "VND" | "XAF" | "XOF" | "XPF" | "UGX" | "PYG" | "RWF"
        | "KMF" | "GNF" | "DJF" | "BIF" | "VUV" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    };
    let unit = 10_u64.pow(digits);
    let (sign, minor) = (
        if total.minor_units < 0 { "-" } else { "" },
        total.minor_units.unsigned_abs(),
    );
    if digits == 0 {
        return format!("{sign}{minor} {}", total.currency);
    }
    format!(
        "{sign}{}.{:0width$} {}",
        minor / unit,
        minor % unit,
        total.currency,
        width = digits as usize
    )
}

/// Text of others, kept to its line.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
