//! Whole-system tests of sagamesh: real processes, started by the launcher, each system in a temporary folder on free
//! ports.
//!
//! This library is what the tests share; the tests themselves are in `tests/`, one binary per theme.

pub mod binaries;
pub mod books;
pub mod campaign;
pub mod collector;
pub mod rest;
pub mod secrets;
#[cfg(target_os = "linux")]
pub mod sockets;
pub mod spans;
pub mod system;

pub use system::{Options, System};
