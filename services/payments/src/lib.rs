//! The payments service of the shop.
pub mod domain;
pub mod processor;
