//! The notifications service of the shop.

pub mod domain;
