//! The pure heart of payments: what a payment is, which changes of it are legal, and what they write into the books.
//!
//! The money itself is moved by a processor outside, which no transaction reaches. So every effect has two records:
//! the *intent* before the processor is called with the key `<payment_id>/<operation>`, and the *outcome* after. A
//! crash between them leaves an open intent; whoever comes next asks the processor by the same key, which is
//! idempotent, and an undo first settles the open intent and then undoes what it finds.
//!
//! ```text
//!             authorize            capture              refund
//!   Nothing ------------> Held ---------------> Taken ------------> GivenBack
//!      |  declined: stays  |  declined: stays Held
//!      +------ void -------+----> LetGo
//! ```
//!
//! Nothing here knows a clock, a database or a network.

mod decide;
mod event;
pub mod journal;
mod state;

pub use decide::{Answer, Asked, Command, Decision, Ending, Next, Rejection, decide};
pub use event::{DecodeError, Event};
pub use state::{Decline, Details, Hold, Operation, Payment};

/// Largest amount of one payment, in minor units.
pub const MAX_AMOUNT_MINOR: i64 = 1_000_000_000_000;
/// Longest id of a payment or a customer, and longest token of a payment method.
pub const MAX_ID_CHARS: usize = 128;

/// Whether `id` can name a payment: 1 to 128 characters of `[A-Za-z0-9._:-]`, as ids of sagas are.
pub fn is_payment_id(id: &str) -> bool {
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
