//! The whole service on a real file, through its step handlers and its gRPC methods.

mod books;
mod postgres;
mod queries;
mod shop;
mod steps;
