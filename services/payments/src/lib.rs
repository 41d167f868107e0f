//! The payments service of the shop.
