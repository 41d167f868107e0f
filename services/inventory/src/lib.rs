//! The inventory service of the shop.

pub mod domain;
