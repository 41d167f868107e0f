//! The coordinator over real streams and a real database in a temporary folder.

mod forward;
mod support;
