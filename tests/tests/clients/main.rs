//! Clients that others wrote, unchanged, and those that `make stubs` generates, on a running system.

mod consul;
mod grpcurl;
mod participant;
mod stubs;
mod tools;
