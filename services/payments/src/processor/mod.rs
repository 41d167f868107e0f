//! The payment processor: the world outside, behind a trait.
//!
//! A processor is asked with a key, `<payment_id>/<operation>`, and answers the same key always the same. The built-in one is
//! a [bank] with records of its own, which no transaction of payments reaches: as in the world outside.

pub mod bank;
mod guarded;
pub mod rules;

use futures_util::future::BoxFuture;
use sagamesh_api::shop::v1::Money;

pub use guarded::{CallError, Guarded};

use crate::domain::{Answer, Operation};

/// What a processor is asked to do.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// The idempotency key: the same key does its work once.
    pub key: String,
    /// Which payment.
    pub payment_id: String,
    /// What to do. A void of an authorization that never came stops it, should it still come.
    pub operation: Operation,
    /// How much.
    pub amount: Money,
    /// Token of the payment method. Secret: never shown nor logged.
    pub payment_method: String,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("key", &self.key)
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

/// The processor did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessorError {
    /// It surely did nothing.
    #[error("the processor is not available: {0}")]
    Unavailable(String),
    /// It may or may not have done it.
    #[error("the connection to the processor broke: {0}")]
    Lost(String),
}

/// A payment processor. Calls may take for ever: [`Guarded`] gives them a limit.
pub trait Processor: Send + Sync + 'static {
    /// Does the work of a key once, and answers with what was decided then.
    fn perform<'a>(&'a self, request: &'a Request)
    -> BoxFuture<'a, Result<Answer, ProcessorError>>;

    /// What became of a key; none if it never came.
    fn status<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Answer>, ProcessorError>>;
}
