//! meshd: see the library.

fn main() {}
