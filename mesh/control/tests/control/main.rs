//! meshd, served in process, with the real policy files in a temporary folder.

mod consul;
mod identity;
mod killed;
mod pods;
mod policy_files;
mod proxies;
mod purity;
mod registrations;
mod rig;
mod service_config;
