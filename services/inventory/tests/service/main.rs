//! The whole service on a real file, through its step handlers and its gRPC methods.

mod faults;
mod overselling;
mod postgres;
mod queries;
mod restock;
mod server;
mod shop;
mod steps;
mod sweep;
