//! The sidecar: see the library.

fn main() {}
