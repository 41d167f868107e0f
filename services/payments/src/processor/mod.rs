//! The payment processor: the world outside, behind a trait.
pub mod rules;
