//! The pure heart of inventory: what a shelf is, and which changes of it are legal.
//!
//! Two kinds of streams: `item/<sku>` holds the counts of one item, `reservation/<id>` says what is held for one
//! order. A reservation of several SKUs is one command that names all their streams, so that its lines are decided
//! together: all or nothing. Counts are commutative: nothing is asked but `available >= quantity`, so that
//! reservations of different orders never conflict.
//!
//! Nothing here knows a clock, a database or a network: time is an argument.

mod decide;
mod event;
mod rejection;
mod state;

pub use decide::{Change, Command, Decided, Line, Restock, Settlement, Shelf, decide};
pub use event::{DecodeError, Event, Target};
pub use rejection::Rejection;
pub use state::{Item, Reservation, ReservationStatus};

/// Most pieces of one item that there may be in stock, and the most that one request may add.
pub const MAX_STOCK: u64 = 1_000_000_000;
/// Most pieces of one item in one line of a reservation.
pub const MAX_LINE_QUANTITY: u32 = 10_000;
/// Most lines of one reservation.
pub const MAX_LINES: usize = 50;
/// Highest price of one piece, in minor units.
pub const MAX_PRICE_MINOR: i64 = 1_000_000_000_000;
/// Longest name of an item, in characters.
pub const MAX_NAME_CHARS: usize = 200;
/// Longest SKU.
pub const MAX_SKU_CHARS: usize = 64;
/// Longest id of a reservation.
pub const MAX_ID_CHARS: usize = 128;

/// Whether `sku` is 1 to 64 characters of `[A-Za-z0-9_-]`.
pub fn is_sku(sku: &str) -> bool {
    (1..=MAX_SKU_CHARS).contains(&sku.len())
        && sku
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Whether `id` can name a reservation: 1 to 128 characters of `[A-Za-z0-9._:-]`, as ids of sagas are.
pub fn is_reservation_id(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

/// Whether `currency` is an ISO 4217 code: three upper-case letters.
pub fn is_currency(currency: &str) -> bool {
    currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests;
