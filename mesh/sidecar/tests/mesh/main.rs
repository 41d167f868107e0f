//! Sidecars against each other and a control plane in memory, over real connections on loopback.

mod app;
mod calls;
mod client;
mod crowding;
mod frames;
mod harness;
mod hostile;
mod hostile_peers;
mod identity;
mod linkerd;
mod metrics;
mod outages;
mod peers;
mod policies;
mod process;
mod proxy;
mod rest;
mod start;
mod threads;
