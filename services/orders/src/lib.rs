//! The orders service of the shop.

pub mod domain;
