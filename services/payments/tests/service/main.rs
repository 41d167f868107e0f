//! The whole service on a real file, through its step handlers and its gRPC methods.

mod books;
mod faults;
mod postgres;
mod queries;
mod server;
mod shop;
mod steps;
